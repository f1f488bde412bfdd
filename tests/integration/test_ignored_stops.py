"""A stop that a job keeps to itself ends its run all the same: it goes back, or stays cancelled."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from children import Child
from engines import GRACE_S, engine, record, take_over, types
from interrupting import press_in_a_wait

import durably

ITEMS: Final = 4
Item = Callable[[int], Any]
Job = Callable[[durably.StepContext, Item], Any]


def bare_except(step: durably.StepContext, item: Item) -> Any:
    bad = []
    for number in range(ITEMS):
        try:
            step.run(f"item-{number}", item, number)
        except:  # noqa: E722 - what people write
            bad.append(number)
    return bad


def suppressed(step: durably.StepContext, item: Item) -> Any:
    for number in range(ITEMS):
        with suppress(BaseException):
            step.run(f"item-{number}", item, number)
    return "suppressed"


def return_in_finally(step: durably.StepContext, item: Item) -> Any:
    done = []
    try:
        for number in range(ITEMS):
            done.append(step.run(f"item-{number}", item, number))
    finally:
        return done  # noqa: B012 - what people write


def forgotten_futures(step: durably.StepContext, item: Item) -> Any:
    with ThreadPoolExecutor(1) as pool:
        for number in range(ITEMS):
            pool.submit(step.run, f"item-{number}", item, number)
    return "as if it were done"


def waited_futures(step: durably.StepContext, item: Item) -> Any:
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(step.run, f"item-{n}", item, n) for n in range(ITEMS)]
        done, _ = concurrent.futures.wait(futures)
    return len([future for future in done if future.exception() is None])


def threads_of_its_own(step: durably.StepContext, item: Item) -> Any:
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        try:
            results[number] = step.run(f"item-{number}", item, number)
        except BaseException as exc:
            results[number] = type(exc).__name__

    for number in range(ITEMS):
        thread = threading.Thread(target=work, args=(number,))
        thread.start()
        thread.join()
    return sorted(map(str, results.values()))


def gathered(step: durably.StepContext, item: Item) -> Any:
    async def main() -> int:
        calls = [asyncio.to_thread(step.run, f"item-{n}", item, n) for n in range(ITEMS)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        return len([each for each in results if isinstance(each, BaseException)])

    return asyncio.run(main())


def check_in_a_loop(step: durably.StepContext, item: Item) -> Any:
    for number in range(ITEMS):
        item(number)
        with suppress(BaseException):
            step.check()
    return "checked"


def sleep_in_a_loop(step: durably.StepContext, item: Item) -> Any:
    for number in range(ITEMS):
        item(number)
        with suppress(BaseException):
            step.sleep(0)
    return "slept"


def stopped_inside_a_step(step: durably.StepContext, item: Item) -> Any:
    def work(number: int) -> str:
        item(number)
        with suppress(durably.StopRun):
            step.check()
        return "stored"

    with suppress(durably.StopRun):
        for number in range(ITEMS):
            step.run(f"item-{number}", work, number)
    return "as if it were done"


def an_error_of_its_own(step: durably.StepContext, item: Item) -> Any:
    try:
        for number in range(ITEMS):
            step.run(f"item-{number}", item, number)
    except BaseException as exc:
        raise ValueError("could not do all") from exc


def a_group_of_errors(step: durably.StepContext, item: Item) -> Any:
    errors: list[BaseException] = []
    for number in range(ITEMS):
        try:
            step.run(f"item-{number}", item, number)
        except BaseException as exc:
            errors.append(exc)
    if errors:
        raise BaseExceptionGroup("some", [*errors, ValueError()])


def system_exit(step: durably.StepContext, item: Item) -> Any:
    try:
        for number in range(ITEMS):
            step.run(f"item-{number}", item, number)
    except BaseException:
        raise SystemExit(1) from None


def a_result_that_cannot_be_stored(step: durably.StepContext, item: Item) -> Any:
    try:
        for number in range(ITEMS):
            step.run(f"item-{number}", item, number)
    except BaseException:
        return object()


JOBS: Final[list[Job]] = [
    bare_except,
    suppressed,
    return_in_finally,
    forgotten_futures,
    waited_futures,
    threads_of_its_own,
    gathered,
    check_in_a_loop,
    sleep_in_a_loop,
    stopped_inside_a_step,
    an_error_of_its_own,
    a_group_of_errors,
    system_exit,
    a_result_that_cannot_be_stored,
]


class Stopped:
    """A run that is stopped while the second item of its first attempt is being done."""

    def __init__(self, app: durably.Durably, body: Job, how: str) -> None:
        self.app = app
        self.done: set[int] = set()
        self._body = body
        self._how = how
        self._is_inside, self._may_go_on = threading.Event(), threading.Event()
        app.register(durably.Job("job", self._job))

    def _job(self, step: durably.StepContext) -> Any:
        def item(number: int) -> int:
            if step._run.fence == 1 and number == 1:
                self._is_inside.set()
                assert self._may_go_on.wait(GRACE_S)
            self.done.add(number)
            return number

        return self._body(step, item)

    def _stop(self) -> None:
        assert self._is_inside.wait(GRACE_S)
        try:
            with suppress(durably.WaitTimeoutError):
                # Also where it is not interrupted: it must not claim the run again by itself.
                self.app.stop(interrupt=self._how == "interrupted", timeout=0)
            (active,) = self.app._supervisor.current_runs()
            if self._how == "cancelled":
                self.app.cancel(active.id)
            elif self._how == "taken over":
                take_over(self.app)
                active.stop(durably.OwnershipLost)  # as the heartbeat does
        finally:
            self._may_go_on.set()

    def execute(self, where: str) -> durably.Run[Any, Any]:
        """Execute the run once, in the pool or in this thread; the run as it is then."""
        run = self.app.jobs["job"].trigger(idempotency_key="k")
        stopping = threading.Thread(target=self._stop)
        stopping.start()
        if where == "pool":
            self.app.start()
        else:
            assert self.app.process_one()
        stopping.join(GRACE_S)
        self.app.stop(timeout=GRACE_S)
        found = self.app.get_run(run)
        assert found is not None
        return found


@pytest.mark.parametrize("where", ["pool", "calling thread"])
@pytest.mark.parametrize("how", ["interrupted", "cancelled", "taken over"])
@pytest.mark.parametrize("body", JOBS, ids=lambda body: body.__name__)
def test_a_job_that_keeps_a_stop_to_itself_has_not_ended(
    tmp_path: Path, body: Job, how: str, where: str
) -> None:
    """Whatever it returns or raises, its run goes back, and the next attempt does the rest."""
    with engine(tmp_path, heartbeat_interval=600, stale_threshold=1200) as app:
        events = record(app)
        stopped = Stopped(app, body, how)
        run = stopped.execute(where)
        ended = (run.status, run.output, run.error, run.attempt)
        assert ended == ("cancelled" if how == "cancelled" else "pending", None, None, 1)
        assert [each.status for each in app.get_steps(run)].count("failed") == 0
        told = types(events)
        assert not {"run:complete", "run:fail", "step:fail"} & set(told)
        assert told.count("run:interrupt") == (how == "interrupted")
        # The key is not used up: the next start of a script goes on with the run.
        again = app.jobs["job"].trigger(idempotency_key="k", retry_failed=True)
        assert (again.id, again.disposition) == (
            run.id,
            "retried" if how == "cancelled" else "idempotent",
        )
        assert app.process_one()
        assert stopped.done == set(range(ITEMS))
        if body is not a_result_that_cannot_be_stored:
            assert app.get_run(run).status == "completed"


def in_a_step(step: durably.StepContext, app: durably.Durably) -> None:
    step.run("s", signal.raise_signal, signal.SIGINT)


def in_a_sleep(step: durably.StepContext, app: durably.Durably) -> None:
    press_in_a_wait()
    step.sleep(GRACE_S)


def in_a_wait(step: durably.StepContext, app: durably.Durably) -> None:
    run = app.jobs["other"].trigger()
    press_in_a_wait()
    app.wait(run, timeout=GRACE_S)


@pytest.mark.parametrize("where", [in_a_step, in_a_sleep, in_a_wait], ids=lambda w: w.__name__)
def test_a_ctrl_c_that_a_job_keeps_to_itself_reaches_the_caller(
    tmp_path: Path, where: Callable[[durably.StepContext, durably.Durably], None]
) -> None:
    """In ``process_one``: the job stops at its next step, its run goes back, the caller hears."""
    met = []

    def job(step: durably.StepContext) -> str:
        if met:
            return "done"
        with suppress(BaseException):
            where(step, app)
        try:
            step.run("next", met.append, "executed")
        except BaseException as exc:
            met.append(type(exc).__name__)
        return "as if it were done"

    def other(step: durably.StepContext) -> None:
        return

    with engine(tmp_path, job, other) as app:
        run = app.jobs["job"].trigger()
        with pytest.raises(KeyboardInterrupt):
            app.process_one()
        assert met == ["RunInterrupted"]
        assert app.get_run(run).status == "pending"
        assert app.get_steps(run) == []
        assert app.process_one()
        assert app.get_run(run).output == "done"


def test_a_job_that_waits_and_keeps_the_stop_to_itself_has_not_ended(tmp_path: Path) -> None:
    """Waiting for another run is a step boundary, whatever becomes of what is raised there."""
    is_inside = threading.Event()

    def job(step: durably.StepContext) -> str:
        other = nobodys.trigger()
        is_inside.set()
        with suppress(BaseException):
            app.wait(other)
        return "as if it had waited"

    with engine(tmp_path, job) as app, engine(tmp_path) as elsewhere:
        nobodys = elsewhere.register(durably.Job("nobodys", lambda step: None))
        app.start()
        run = app.jobs["job"].trigger()
        assert is_inside.wait(GRACE_S)
        app.stop(interrupt=True, timeout=GRACE_S)
        assert app.get_run(run).status == "pending"


@pytest.mark.parametrize("raised", [False, True])
def test_threads_of_a_job_that_wait_for_runs_are_stopped_like_it(
    tmp_path: Path, raised: bool
) -> None:
    """What ends their wait is no answer: kept or raised, the run of the job goes back."""
    is_inside = threading.Event()

    def job(step: durably.StepContext) -> str:
        def wait() -> str:
            is_inside.set()
            return str(app.wait(nobodys.trigger()).output)

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(wait)
        if raised:
            raise ExceptionGroup("in threads", [future.exception()])
        return type(future.exception()).__name__

    with engine(tmp_path, job) as app, engine(tmp_path) as elsewhere:
        nobodys = elsewhere.register(durably.Job("nobodys", lambda step: None))
        app.start()
        run = app.jobs["job"].trigger()
        assert is_inside.wait(GRACE_S)
        app.stop(interrupt=True, timeout=GRACE_S)
        assert app.get_run(run).status == "pending"


def test_a_job_that_meets_no_stop_has_ended(tmp_path: Path) -> None:
    """One that returns after a stop was asked for, and takes no step after that, is completed."""
    is_inside, may_go_on = threading.Event(), threading.Event()

    def job(step: durably.StepContext) -> str:
        step.run("first", int)
        is_inside.set()
        assert may_go_on.wait(GRACE_S)
        return "whole"

    with engine(tmp_path, job) as app:
        app.start()
        run = app.jobs["job"].trigger()
        assert is_inside.wait(GRACE_S)
        with pytest.raises(durably.WaitTimeoutError):
            app.stop(interrupt=True, timeout=0)
        may_go_on.set()
        app.stop()
        assert app.get_run(run).output == "whole"


@pytest.mark.parametrize("where", ["job", "step"])
def test_a_failure_after_an_interrupt_is_not_stored(tmp_path: Path, where: str) -> None:
    """It may come of what stops the process: the run goes back, and no step has failed."""
    is_inside, may_go_on = threading.Event(), threading.Event()

    def fail() -> str:
        if is_inside.is_set():
            return "done"
        is_inside.set()
        assert may_go_on.wait(GRACE_S)
        raise ConnectionError("the database server is stopping too")

    def job(step: durably.StepContext) -> str:
        return fail() if where == "job" else step.run("s", fail)

    with engine(tmp_path, job) as app:
        events = record(app)
        app.start()
        run = app.jobs["job"].trigger()
        assert is_inside.wait(GRACE_S)
        with pytest.raises(durably.WaitTimeoutError):
            app.stop(interrupt=True, timeout=0)
        may_go_on.set()
        app.stop()
        assert (app.get_run(run).status, app.get_steps(run)) == ("pending", [])
        assert types(events)[-1] == "run:interrupt"
        assert "step:fail" not in types(events)
        assert app.process_one()
        assert app.get_run(run).output == "done"


def test_a_failure_while_a_stop_waits_for_the_runs_is_one(tmp_path: Path) -> None:
    """A stop without an interrupt lets jobs come to their own end, which may be a failure."""
    is_inside, may_go_on = threading.Event(), threading.Event()

    def job(step: durably.StepContext) -> None:
        is_inside.set()
        assert may_go_on.wait(GRACE_S)
        raise ValueError("of its own")

    with engine(tmp_path, job) as app:
        app.start()
        run = app.jobs["job"].trigger()
        assert is_inside.wait(GRACE_S)
        with pytest.raises(durably.WaitTimeoutError):
            app.stop(timeout=0)
        may_go_on.set()
        app.stop()
        assert app.get_run(run).status == "failed"


@pytest.mark.parametrize("ending", ["Ctrl-C", "end of the script"])
def test_a_script_that_ends_leaves_the_rest_for_its_next_start(tmp_path: Path, ending: str) -> None:
    """By Ctrl-C or at its end: its run is pending, and the next start does what is missing."""
    database = tmp_path / "durably.db"
    with Child("swallows_stops", database, ending) as child:
        child.expect("inside")
        if ending == "Ctrl-C":
            os.kill(child.pid, signal.SIGINT)
        child.wait()
    with engine(tmp_path) as app:
        (run,) = app.get_runs()
        assert (run.status, run.completed_steps) == ("pending", 2)
    with Child("swallows_stops", database, "again") as child:
        assert child.rest() == ["[] 1"]
