"""NoWorkerError: a wait without timeout ends when nothing can execute the run, and only then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import Child
from engines import whole
from held import HeldJob, finish, told

import durably
from durably.client import patience
from durably.store.sqlite.sql import owners

Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture(autouse=True)
def frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiters look for workers often, so that nothing takes a second."""
    monkeypatch.setattr(patience, "_WORKER_CHECK_S", 0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The database file."""
    return tmp_path / "durably.db"


@pytest.fixture
def app(path: Path) -> Iterator[durably.Durably]:
    """An engine that was not started."""
    opened = durably.Durably(path, jobs=[finish, told])
    yield opened
    opened.close()


class Waiting:
    """A wait without timeout in a thread of its own."""

    def __init__(self, app: durably.Durably, run: durably.Run) -> None:
        self._app = app
        self._run = run
        self._result: list[Any] = []
        self._thread = threading.Thread(target=self._wait)
        self._looks = 0
        self._original = app._client.waiter._require_worker
        app._client.waiter._require_worker = self._look  # type: ignore[method-assign]  # counts
        self._thread.start()

    def _look(self, *args: Any) -> None:
        self._original(*args)
        self._looks += 1

    def _wait(self) -> None:
        try:
            self._result.append(self._app.wait(self._run))
        except BaseException as exc:
            self._result.append(exc)

    def goes_on(self, eventually: Eventually) -> None:
        """Make sure that it has checked for workers, twice from now on, and still waits."""
        before = self._looks
        eventually(lambda: self._looks >= before + 2 or self._result)
        assert not self._result

    def result(self) -> Any:
        """What it returned or raised."""
        self._thread.join(20)
        assert self._result, "it still waits"
        return self._result[0]


def no_worker_for(app: durably.Durably, run: durably.Run) -> None:
    """Every kind of wait without timeout raises NoWorkerError; the run stays as it is."""
    before = app.get_run(run)
    with pytest.raises(durably.NoWorkerError, match=run.id):
        app.wait(run)
    with pytest.raises(durably.NoWorkerError, match=run.id):
        list(app.as_completed([run]))
    assert whole(app.get_run(run)) == whole(before)


def test_an_engine_that_was_not_started_executes_nothing(app: durably.Durably) -> None:
    """Every kind of wait raises, the message says what to do, the run stays pending."""
    no_worker_for(app, app.jobs["finish"].trigger(1))
    with pytest.raises(durably.NoWorkerError, match="start"):
        app.jobs["finish"].trigger_and_wait(2)
    assert [(run.payload, run.status) for run in app.get_runs()] == [(2, "pending"), (1, "pending")]


def test_what_has_ended_needs_no_worker(app: durably.Durably) -> None:
    """Its end is given at once; as_completed raises only for what has not ended."""
    ended = app.jobs["finish"].trigger(1)
    assert app.process_one()
    pending = app.jobs["finish"].trigger(2)
    assert app.wait(ended).output == 1
    found = app.as_completed([pending, ended])
    assert next(found).id == ended.id
    with pytest.raises(durably.NoWorkerError, match=pending.id):
        next(found)


def test_with_a_timeout_the_wait_is_for_somebody_to_come(app: durably.Durably, path: Path) -> None:
    """It ends with WaitTimeoutError, or with the run when an engine is started meanwhile."""
    run = app.jobs["finish"].trigger(1)
    with pytest.raises(durably.WaitTimeoutError):
        app.wait(run, timeout=0.1)
    with pytest.raises(durably.WaitTimeoutError):
        list(app.as_completed([run], timeout=0.1))
    starting = threading.Thread(target=app.start)
    starting.start()
    assert app.wait(run, timeout=20).output == 1
    starting.join()


def test_a_stop_ends_the_waits_for_what_is_not_executed(
    app: durably.Durably, eventually: Eventually
) -> None:
    """A pending run's at once, and an interrupted one's when it was put back."""
    with HeldJob() as held:
        app.start()
        handle = app.register(held.job)
        first = handle.trigger(1, concurrency_key="c")
        held.inside()
        second = handle.trigger(2, concurrency_key="c")
        for_first, for_second = Waiting(app, first), Waiting(app, second)
        stopping = threading.Thread(target=app.stop, kwargs={"interrupt": True})
        stopping.start()
        assert isinstance(for_second.result(), durably.NoWorkerError)
        for_first.goes_on(eventually)
        held.let_go()
        stopping.join(20)
        assert isinstance(for_first.result(), durably.NoWorkerError)
        assert {app.get_run(first).status, app.get_run(second).status} == {"pending"}


def test_an_engine_whose_stop_timed_out_claims_nothing(
    app: durably.Durably, eventually: Eventually
) -> None:
    """What it executes is waited for; what is pending is not, until it is started again."""
    with HeldJob() as held:
        app.start()
        handle = app.register(held.job)
        running = handle.trigger(1)
        held.inside()
        with pytest.raises(durably.WaitTimeoutError):
            app.stop(timeout=0)
        pending = handle.trigger(2)
        no_worker_for(app, pending)
        waiting = Waiting(app, running)
        waiting.goes_on(eventually)
        held.let_go()
        assert waiting.result().output == 1
        app.start()
        held.let_go()
        assert app.wait(pending).output == 2


def test_another_engine_of_this_process_counts(app: durably.Durably, path: Path) -> None:
    """Whichever engine waits."""
    run = app.jobs["finish"].trigger(1)
    no_worker_for(app, run)
    with durably.Durably(path, jobs=[finish]):
        assert app.wait(run).output == 1
    no_worker_for(app, app.jobs["finish"].trigger(2))


def test_a_started_engine_that_does_not_know_the_job_counts(
    app: durably.Durably, path: Path, eventually: Eventually
) -> None:
    """It may register it later."""
    run = app.jobs["finish"].trigger(1)
    with durably.Durably(path) as ignorant:
        for waiter in (app, ignorant):
            waiting = Waiting(waiter, run)
            waiting.goes_on(eventually)
            if waiter is app:
                app.cancel(run)
                assert isinstance(waiting.result(), durably.RunCancelledError)
                app.retry(run)
        ignorant.register(finish)
        assert waiting.result().output == 1


def test_a_run_that_is_executed_without_a_start_is_waited_for(
    app: durably.Durably, eventually: Eventually
) -> None:
    """As with process_one; a pending one beside it is not, nor the same one retried."""
    with HeldJob() as held:
        handle = app.register(held.job)
        run = handle.trigger(1)
        pending = handle.trigger(2)
        executing = threading.Thread(target=app.process_one)
        executing.start()
        held.inside()
        no_worker_for(app, pending)
        waiting = Waiting(app, run)
        waiting.goes_on(eventually)
        held.let_go()
        assert waiting.result().output == 1
        executing.join(20)

        executing = threading.Thread(target=app.process_one)
        executing.start()
        held.inside()
        app.cancel(pending)
        app.retry(pending)
        no_worker_for(app, pending)
        held.let_go()
        executing.join(20)


# -- other processes --------------------------------------------------------------------------


def test_another_process_must_be_started_to_count(app: durably.Durably, path: Path) -> None:
    """One that only has the database open executes nothing."""
    run = app.jobs["told"].trigger(1)
    with Child("worker", path, "open") as child:
        child.expect("ready")
        no_worker_for(app, run)
    with Child("worker", path, "started") as child:
        child.expect("ready")
        child.expect("inside 1")
        child.say("return there")
        assert app.wait(run).output == "there"


def test_a_started_process_that_does_not_know_the_job_counts(
    app: durably.Durably, path: Path, eventually: Eventually
) -> None:
    """Until it is dead: then the wait ends."""
    run = app.jobs["told"].trigger(1)
    with Child("worker", path, "started", "ignorant") as child:
        child.expect("ready")
        waiting = Waiting(app, run)
        waiting.goes_on(eventually)
        child.kill()
        assert isinstance(waiting.result(), durably.NoWorkerError)
    assert app.get_run(run).status == "pending"


@pytest.mark.parametrize("mode", ["started", "one"])
def test_the_death_of_the_process_that_executes_ends_the_wait(
    app: durably.Durably, path: Path, eventually: Eventually, mode: str
) -> None:
    """As long as it lives the run is waited for, also where the engine was not started."""
    with Child("worker", path, mode) as child:
        child.expect("ready")
        run = app.jobs["told"].trigger(1)
        if mode == "one":
            child.say()
        child.expect("inside 1")
        waiting = Waiting(app, run)
        waiting.goes_on(eventually)
        child.kill()
        assert isinstance(waiting.result(), durably.NoWorkerError)
    # Nothing was lost: the next engine continues it.
    app.start()
    assert app.wait(run).output == "here"


def test_a_process_whose_stop_timed_out_claims_nothing(
    app: durably.Durably, path: Path, eventually: Eventually
) -> None:
    """Seen from here: its running run is waited for, a pending one is not."""
    with Child("worker", path, "stopping") as child:
        child.expect("ready")
        running = app.jobs["told"].trigger(1)
        child.expect("inside 1")
        child.say()
        child.expect("stop timed out")
        no_worker_for(app, app.jobs["told"].trigger(2))
        waiting = Waiting(app, running)
        waiting.goes_on(eventually)
        child.say("return there")
        assert waiting.result().output == "there"


def with_children(app_of: list[durably.Durably]) -> list[Any]:
    """A job that waits for another run inside itself, and the job it waits for."""

    @durably.job
    def child(step) -> str:
        return "child"

    @durably.job
    def parent(step) -> str:
        return app_of[0].jobs["child"].trigger_and_wait().output

    @durably.job
    def collector(step) -> list[str]:
        runs = app_of[0].jobs["child"].batch_trigger([None, None])
        return [run.output for run in app_of[0].as_completed(runs)]

    return [child, parent, collector]


@pytest.mark.parametrize("name", ["parent", "collector"])
def test_a_job_that_waits_in_the_last_worker_raises(tmp_path: Path, name: str) -> None:
    """Nothing is left to execute what it waits for: an error instead of waiting for ever."""
    app_of: list[durably.Durably] = []
    app = durably.Durably(tmp_path / "x.db", jobs=with_children(app_of), max_workers=1)
    app_of.append(app)
    with app:
        with pytest.raises(durably.RunFailedError, match="every worker of this engine") as caught:
            app.jobs[name].trigger_and_wait()
        assert caught.value.run.error.type == "durably.NoWorkerError"
    app = durably.Durably(tmp_path / "x.db")
    # What it triggered is stored, and was executed as soon as the worker was free.
    assert {run.status for run in app.get_runs(job_name="child")} == {"completed"}
    app.close()


@pytest.mark.parametrize("name", ["parent", "collector"])
def test_a_job_may_wait_while_there_is_another_worker(tmp_path: Path, name: str) -> None:
    """Also when several do: one of them gives way, or none has to."""
    app_of: list[durably.Durably] = []
    app = durably.Durably(tmp_path / "x.db", jobs=with_children(app_of), max_workers=2)
    app_of.append(app)
    with app:
        assert "child" in app.jobs[name].trigger_and_wait().output


def test_run_that_ends_with_its_worker_during_the_poll(
    app: durably.Durably, path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """The waiter has seen it pending, and then no engine any more: it has completed meanwhile."""

    @durably.job("quick")
    def quick(step: durably.StepContext) -> int:
        return 7

    run = app.register(quick).trigger()
    read = app._store.database.read
    overtaken: list[bool] = []

    def execute_and_read(query: Any, *args: Any, **kwargs: Any) -> Any:
        if query is owners.list_all and not overtaken:
            overtaken.append(True)
            with durably.Durably(path, jobs=[quick]):
                pass  # its end waits until all is done
        return read(query, *args, **kwargs)

    monkeypatch.setattr(app._store.database, "read", execute_and_read)
    assert app.wait(run).output == 7
    assert overtaken
