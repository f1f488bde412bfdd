"""Step objects in the wrong hands: kept, shared, used after the end, by threads and other runs."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import GRACE_S, again, engine, execute

import durably
from durably.plugins import LogPersistence
from durably.testing import check

# Every use of a step object that could change something. All but the log reject after the end.
USES: dict[str, Callable[[durably.StepContext], object]] = {
    "run": lambda step: step.run("late", list),
    "run again": lambda step: step.run("before", list),
    "run of a bad name": lambda step: step.run("", list),
    "run of no function": lambda step: step.run("late", None),  # type: ignore[arg-type]
    "options": lambda step: step.options(returns=list[int]).run("late", list),
    "retry": lambda step: step.options(retry=durably.Retry()).run("late", list),
    "progress": lambda step: step.progress(99, 100, "late"),
    "bad progress": lambda step: step.progress(99, 100),
    "check": lambda step: step.check(),
    "sleep": lambda step: step.sleep(3600),
}


@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
def test_a_kept_step_object_rejects_and_changes_nothing(tmp_path: Path, ending: str) -> None:
    """Whatever is asked of a step object after the end of its run, in another run or in a later
    attempt of its own run: StopRun that names the run, and nothing is stored.
    """
    kept: list[durably.StepContext] = []

    def job(step: durably.StepContext, payload: Any = None) -> str:
        if payload == "another" or step.attempt > 1:
            for old in kept:
                for use in USES.values():
                    with pytest.raises(durably.StopRun, match=old.run_id):
                        use(old)
                old.log.info("still here")
            return step.run("own", str, "own")
        kept.append(step)
        step.run("before", list)
        step.progress(1, 2)
        if ending == "failed":
            raise ValueError
        if ending == "cancelled":
            app.cancel(step.run_id)
            step.check()
        return "done"

    with engine(tmp_path, job) as app:
        app.use(LogPersistence())
        run = execute(app)
        assert run.status == ending
        another = execute(app, "another")
        assert another.output == "own", another.error
        read = app.get_run(run)
        assert (read.status, read.progress) == (ending, run.progress)
        assert [step.name for step in app.get_steps(run)] == ["before"]
        if ending != "completed":
            resumed = again(app, run)
            assert resumed.output == "own", resumed.error
            assert [step.name for step in app.get_steps(run)] == ["before", "own"]
        (step,) = kept
        assert (step.run_id, step.job_name, step.attempt, step.labels) == (run.id, "job", 1, {})
        assert step.cancelled is (ending == "cancelled")
    # The engine is closed: the object rejects as before, and still does not raise in its log.
    for use in USES.values():
        with pytest.raises(durably.StopRun, match=run.id):
            use(step)
    step.log.error("after the end of all")
    assert check(tmp_path / "durably.db") == []


class Restless:
    """Threads that use the steps of a run on and on, until something stops them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.threads: list[threading.Thread] = []
        self.stopped: list[BaseException] = []
        self.returned: list[str] = []

    def start(self, step: durably.StepContext) -> None:
        """Start three, and wait until each has used it a few times."""
        running = threading.Barrier(4)
        for number in range(3):
            arguments = (step, number, running)
            self.threads.append(threading.Thread(target=self._use, args=arguments, daemon=True))
            self.threads[-1].start()
        running.wait(GRACE_S)

    def _use(self, step: durably.StepContext, number: int, running: threading.Barrier) -> None:
        choice = random.Random(self.seed + number)
        try:
            for count in itertools.count():
                self._use_once(step, choice.randrange(6), f"{number}-{count}", f"shared-{count}")
                if count == 3:
                    running.wait(GRACE_S)
        except BaseException as exc:
            self.stopped.append(exc)

    def _use_once(self, step: durably.StepContext, use: int, own: str, shared: str) -> None:
        if use == 0:
            step.progress(1)
        elif use == 1:
            step.log.debug("on and on")
        elif use == 2:
            step.check()
        else:
            self.returned.append(
                step.run(shared, str, shared) if use == 3 else step.run(own, str, own)
            )

    def join(self) -> None:
        """Wait until all have been stopped."""
        for thread in self.threads:
            thread.join(GRACE_S)
            assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore::durably.DuplicateStepWarning")
@pytest.mark.parametrize("ending", ["returns", "raises", "is cancelled", "is interrupted"])
def test_threads_that_outlive_the_run_are_stopped_one_by_one(
    tmp_path: Path, seed: int, ending: str
) -> None:
    """Threads that a job started and did not wait for use its steps on and on, whichever way the
    run ends: each gets StopRun and nothing else, and what was acknowledged is stored.
    """
    restless = Restless(seed)
    is_running = threading.Event()

    def job(step: durably.StepContext) -> str:
        if step._run.fence > 1:
            return "done"
        restless.start(step)
        if ending == "raises":
            raise ValueError
        if ending == "is cancelled":
            app.cancel(step.run_id)
        if ending == "is interrupted":
            is_running.set()
            step.sleep(GRACE_S)
        step.check()
        return "done"

    with engine(tmp_path, job, on_duplicate_step="reuse") as app:
        app.start()
        run = app.jobs["job"].trigger()
        if ending == "is interrupted":
            assert is_running.wait(GRACE_S)
            app.stop(interrupt=True)
        else:
            assert next(app.as_completed([run], timeout=GRACE_S)).is_terminal
        restless.join()
        app.stop()
        assert len(restless.stopped) == 3
        assert [exc for exc in restless.stopped if not isinstance(exc, durably.StopRun)] == []
        expected = {"returns": "completed", "raises": "failed", "is cancelled": "cancelled"}
        assert app.get_run(run).status == expected.get(ending, "pending")
        # A step that was stored in the instant of the end may not have come back any more.
        completed = {s.name for s in app.get_steps(run) if s.status == "completed"}
        assert set(restless.returned) <= completed
        assert len(completed - set(restless.returned)) <= 3
        if ending != "returns":
            if ending != "is interrupted":
                app.retry(run)
            assert app.process_one()
            assert app.get_run(run).output == "done"
        assert completed == {s.name for s in app.get_steps(run) if s.status == "completed"}
    assert check(tmp_path / "durably.db") == []


def test_a_step_object_cannot_be_copied_pickled_or_stored(tmp_path: Path) -> None:
    """It belongs to its run: as result of a step, copied or pickled it is a SerializationError, as
    payload of another run a ValidationError. The run goes on.
    """

    def job(step: durably.StepContext, payload: Any = None) -> str:
        with pytest.raises(durably.SerializationError, match="StepContext"):
            step.run("itself", lambda: step)
        with pytest.raises(durably.ValidationError, match="StepContext"):
            app.jobs["job"].trigger({"step": step})
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(durably.SerializationError, match=step.run_id):
                duplicate(step)
        return step.run("after", str, "whole")

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output == "whole", run.error
        assert app.count_runs() == 1
        statuses = {step.name: step.status for step in app.get_steps(run)}
        assert statuses == {"itself": "failed", "after": "completed"}
    assert check(tmp_path / "durably.db") == []


def test_a_job_called_by_hand_or_from_another_job_is_plain_code(tmp_path: Path) -> None:
    """A job that calls another one with its own step object executes its steps as its own."""

    @durably.job
    def inner(step: durably.StepContext, payload: int) -> int:
        return step.run("inner", lambda: payload + 1)

    def outer(step: durably.StepContext) -> int:
        return inner(step, 1) + step.run("outer", lambda: 10)

    with engine(tmp_path, outer) as app:
        run = execute(app, job="outer")
        assert run.output == 12
        assert [step.name for step in app.get_steps(run)] == ["inner", "outer"]


STRANGE: dict[str, Callable[[durably.StepContext], object]] = {
    "no name": lambda step: step.run(None, list),  # type: ignore[arg-type]
    "a name that is no text": lambda step: step.run(7, list),  # type: ignore[arg-type]
    "no function": lambda step: step.run("s", "list"),  # type: ignore[arg-type]
    "a type that cannot be": lambda step: step.options(returns=Callable).run("s", list),
    "a retry that is none": lambda step: step.options(retry=3),  # type: ignore[call-overload]
    "a sleep of text": lambda step: step.sleep("1s"),  # type: ignore[arg-type]
    "a sleep of nan": lambda step: step.sleep(float("nan")),
    "progress of text": lambda step: step.progress("half"),  # type: ignore[arg-type]
    "progress that tells no text": lambda step: step.progress(1, 2, 3),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("use", STRANGE.values(), ids=STRANGE)
def test_a_wrong_use_is_an_error_that_says_so(
    tmp_path: Path, use: Callable[[durably.StepContext], object]
) -> None:
    """What a step object cannot do is a ValidationError in the job, and the run can go on."""

    def job(step: durably.StepContext) -> str:
        with pytest.raises(durably.ValidationError):
            use(step)
        return step.run("after", str, "whole")

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output == "whole", run.error
        assert [step.name for step in app.get_steps(run)] == ["after"]
