"""Concurrency keys, and the order in which runs start."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import Child
from held import HeldJob, finish, other, told
from invariants import check

import durably

Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """The database file, whose invariants hold at the end."""
    path = tmp_path / "durably.db"
    yield path
    assert check(path) == []


def triggered_elsewhere(path: Path, **options: Any) -> durably.Run:
    """A run of the job that only the other process executes."""
    app = durably.Durably(path, jobs=[told])
    try:
        return app.jobs["told"].trigger(1, **options)
    finally:
        app.close()


def starts_of(app: durably.Durably) -> list[str]:
    """Collects the ids of runs as they start."""
    started: list[str] = []
    app.on("run:start", lambda event: started.append(event.run_id))
    return started


def test_runs_of_one_key_are_executed_one_at_a_time_in_order(path: Path) -> None:
    """Whatever their job, in the order in which they were triggered, with slots to spare."""
    with (
        durably.Durably(path, max_workers=8) as app,
        HeldJob("one") as one,
        HeldJob("two") as two,
    ):
        started = starts_of(app)
        handles = [app.register(one.job), app.register(two.job)]
        runs = [handles[n % 3 % 2].trigger(n, concurrency_key="c") for n in range(9)]
        for n in range(9):
            held = (one, two)[n % 3 % 2]
            assert held.inside() == n
            assert len(app.get_runs(status="running")) == 1
            assert one.nobody_else_is_inside
            assert two.nobody_else_is_inside
            held.let_go()
        for run in runs:
            app.wait(run)
        assert started == [run.id for run in runs]


def test_many_runs_of_few_keys_never_meet(path: Path) -> None:
    """With eight slots and two engines no two runs of a key are inside their job at once."""
    lock = threading.Lock()
    inside: dict[str, int] = {}
    most: list[int] = []

    @durably.job
    def meet(step: durably.StepContext, key: str) -> None:
        with lock:
            inside[key] = inside.get(key, 0) + 1
            most.append(inside[key])
        step.run("work", int)
        with lock:
            inside[key] -= 1

    with (
        durably.Durably(path, jobs=[meet], max_workers=8) as app,
        durably.Durably(path, jobs=[meet], max_workers=8) as second,
    ):
        runs = app.jobs["meet"].batch_trigger(
            [durably.Trigger(f"k{n % 3}", concurrency_key=f"k{n % 3}") for n in range(60)]
        )
        assert len(list(second.as_completed(runs))) == 60
    assert max(most) == 1


def test_runs_of_other_keys_and_without_key_do_not_wait(path: Path) -> None:
    """A key that is held stops its own runs alone, however many are in front."""
    with durably.Durably(path, max_workers=4) as app, HeldJob() as held:
        handle = app.register(held.job)
        handle.batch_trigger(
            [durably.Trigger(f"c{n}", concurrency_key="c") for n in range(20)]
            + [durably.Trigger("d", concurrency_key="d"), "none", "none either"]
        )
        assert {held.inside() for _ in range(4)} == {"c0", "d", "none", "none either"}
        held.let_go(23)


@pytest.mark.parametrize("ending", ["fail", "finish"])
def test_a_key_is_free_once_its_run_has_ended(path: Path, ending: str) -> None:
    """Failed or completed, the next one starts."""
    with durably.Durably(path, jobs=[finish], raise_failed=False) as app:
        app.jobs["finish"].trigger(ending, concurrency_key="c")
        assert app.jobs["finish"].trigger_and_wait(2, concurrency_key="c").output == 2


def test_a_cancelled_run_holds_its_key_until_its_step_has_ended(path: Path) -> None:
    """It is cancelled at once in the database, but the next one waits for its job."""
    with durably.Durably(path) as app, HeldJob() as held:
        handle = app.register(held.job)
        first = handle.trigger(1, concurrency_key="c")
        held.inside()
        second = handle.trigger(2, concurrency_key="c")

        app.cancel(first)

        with pytest.raises(durably.RunCancelledError):
            app.wait(first)
        assert not app.process_one()
        assert app.get_run(second).status == "pending"
        with pytest.raises(durably.ConflictError, match="still inside a step"):
            app.delete_run(first)
        assert app.purge_runs(older_than=0) == 0
        held.let_go()
        assert held.inside() == 2
        held.let_go()
        assert app.wait(second).output == 2
        app.delete_run(first)
    assert held.most_inside == 1


@pytest.mark.parametrize("key", ["c", None])
def test_a_run_retried_inside_its_step_waits_for_itself(path: Path, key: str | None) -> None:
    """It is pending, but starts again only when its old job has left; so do those behind it."""
    with durably.Durably(path, max_workers=4) as app, HeldJob() as held:
        handle = app.register(held.job)
        first = handle.trigger(1, concurrency_key=key)
        held.inside()
        second = handle.trigger(2, concurrency_key="c") if key else None
        app.cancel(first)

        retried = app.retry(first)

        assert (retried.status, retried.attempt) == ("pending", 1)
        assert not app.process_one()
        assert held.nobody_else_is_inside
        held.let_go()
        assert held.inside() == 1
        held.let_go()
        assert app.wait(first).attempt == 2
        if second is not None:
            assert held.inside() == 2
            held.let_go()
            assert app.wait(second).output == 2
    assert held.most_inside == 1


def test_a_run_cancelled_and_retried_again_and_again_inside_one_step(path: Path) -> None:
    """However often that happens, one job is inside, and in the end the run completes."""
    with durably.Durably(path) as app, HeldJob() as held:
        handle = app.register(held.job)
        run = handle.trigger(1, concurrency_key="c", idempotency_key="i")
        held.inside()
        for _ in range(3):
            app.cancel(run)
            again = handle.trigger(1, idempotency_key="i", retry_failed=True)
            assert (again.disposition, again.attempt) == ("retried", 1)
        # Pending, so it can be joined although its old job is still inside.
        assert handle.trigger(2, concurrency_key="c", coalesce=True).id == run.id
        held.let_go()
        assert held.inside() == 1
        held.let_go()
        assert app.wait(run).attempt == 2
    assert held.most_inside == 1


def test_the_step_of_a_cancelled_run_is_not_stored_as_completed(path: Path) -> None:
    """The retried run computes it again."""
    with durably.Durably(path) as app, HeldJob() as held:
        run = app.register(held.job).trigger(1)

        def steps() -> list[tuple[str, str, int]]:
            return [(step.name, step.status, step.attempt) for step in app.get_steps(run)]

        held.inside()
        app.cancel(run)
        app.retry(run)
        held.let_go()
        held.inside()
        assert steps() == [("first", "completed", 1), ("second", "cancelled", 1)]
        held.let_go()
        app.wait(run)
        assert steps() == [
            (name, "completed", n) for name, n in (("first", 1), ("second", 2), ("third", 2))
        ]


def test_a_key_held_by_another_process_is_waited_for(path: Path) -> None:
    """Across processes too at most one run of a key is executed, cancelled ones included."""
    with durably.Durably(path, jobs=[other], poll_interval=3600) as app:
        with Child("worker", path, "started") as child:
            child.expect("ready")
            first = triggered_elsewhere(path, concurrency_key="c")
            child.expect("inside 1")
            second = app.jobs["other"].trigger(2, concurrency_key="c")
            assert app.run_until_idle() == 0
            app.cancel(first)
            assert app.run_until_idle() == 0
            child.say("return 1")
            assert app.wait(second).output == 2
            child.expect("stopped RunCancelled")
        assert app.get_run(first).status == "cancelled"


@pytest.mark.parametrize("is_retried", [False, True])
def test_a_cancelled_run_whose_process_dies_gives_its_key_back(
    path: Path, is_retried: bool
) -> None:
    """Killed inside the step, it holds the key no longer, and a retried one can be executed."""
    with durably.Durably(path, jobs=[other]) as app:
        with Child("worker", path, "started") as child:
            child.expect("ready")
            first = triggered_elsewhere(path, concurrency_key="c")
            child.expect("inside 1")
            second = app.jobs["other"].trigger(2, concurrency_key="c")
            app.cancel(first)
            if is_retried:
                app.retry(first)
            assert app.run_until_idle() == 0
            child.kill()
            assert app.wait(second).output == 2
        if is_retried:
            app.register(told)
            assert app.wait(first).output == "here"


def test_a_run_whose_process_died_starts_after_those_not_tried_since(path: Path) -> None:
    """Recovered, it is behind those of its key that were triggered while it was executed."""
    with durably.Durably(path, jobs=[other]) as app:
        started = starts_of(app)
        with Child("worker", path, "started") as child:
            child.expect("ready")
            first = triggered_elsewhere(path, concurrency_key="c")
            child.expect("inside 1")
            app.register(told)
            second = app.jobs["other"].trigger(2, concurrency_key="c")
            third = app.jobs["told"].trigger(3, concurrency_key="c")
            child.kill()
        assert app.wait(first).output == "here"
        assert started == [second.id, third.id, first.id]
        assert app.get_run(first).attempt == 2


# -- runs of jobs that this process does not know -------------------------------------------


def test_runs_of_unknown_jobs_stay_pending_and_stop_nobody(path: Path) -> None:
    """Neither in front of known ones, nor in the queue of their key, which they do not hold."""
    with durably.Durably(path, jobs=[finish]) as elsewhere:
        elsewhere.stop()
        unknown = [
            elsewhere.jobs["finish"].trigger(1, concurrency_key="c"),
            elsewhere.jobs["finish"].trigger(1),
        ]
        with durably.Durably(path, jobs=[other]) as app:
            known = app.jobs["other"].trigger_and_wait(2, concurrency_key="c")
            assert known.output == 2
            assert app.run_until_idle() == 0
            assert {app.get_run(run).status for run in unknown} == {"pending"}


def test_registering_the_job_starts_its_pending_runs(path: Path) -> None:
    """They are noticed at once by a started engine."""
    with durably.Durably(path, jobs=[finish]) as elsewhere:
        elsewhere.stop()
        run = elsewhere.jobs["finish"].trigger(1)
        with durably.Durably(path, poll_interval=3600) as app:
            app.register(finish)
            assert app.wait(run, timeout=20).output == 1


# -- order ------------------------------------------------------------------------------


def test_runs_start_in_the_order_of_their_triggers(path: Path) -> None:
    """Whatever their jobs, and whether they were triggered before or after the start."""
    with durably.Durably(path, jobs=[finish, other], max_workers=1) as app:
        started = starts_of(app)
        app.stop()
        handles = [app.jobs["finish"], app.jobs["other"]]
        runs = [handles[n % 2].trigger(n) for n in range(10)]
        app.start()
        runs += [handles[n % 2].trigger(n) for n in range(10)]
        for run in runs:
            app.wait(run)
    assert started == [run.id for run in runs]


def test_a_retried_run_has_the_place_of_its_trigger(path: Path) -> None:
    """It starts before those that were triggered later, with a key and without."""
    app = durably.Durably(path, jobs=[finish, other], max_workers=1, raise_failed=False)
    try:
        started = starts_of(app)
        for key in (None, "c"):
            started.clear()
            failed = app.jobs["finish"].trigger("fail", concurrency_key=key)
            assert app.run_until_idle() == 1
            later = [app.jobs["finish"].trigger(n, concurrency_key=key) for n in (1, 2)]
            app.retry(failed)
            assert app.run_until_idle() == 3
            assert started == [failed.id, failed.id, *(run.id for run in later)]
    finally:
        app.close()


def test_no_more_runs_than_slots_are_executed(path: Path) -> None:
    """max_workers bounds what is inside jobs; the others start as slots get free."""
    with durably.Durably(path, max_workers=2) as app, HeldJob() as held:
        runs: list[Any] = app.register(held.job).batch_trigger(range(6))
        assert {held.inside(), held.inside()} == {0, 1}
        assert app.count_runs(status="running") == 2
        for n in range(2, 6):
            held.let_go()
            assert held.inside() == n
        held.let_go(2)
        assert len(list(app.as_completed(runs))) == 6
    assert held.most_inside == 2


def test_cancelling_pending_runs_of_a_queue_skips_them(path: Path) -> None:
    """First, middle or last of the queue: the others come in order."""
    app = durably.Durably(path, jobs=[other])
    try:
        started = starts_of(app)
        runs = app.jobs["other"].batch_trigger(
            [durably.Trigger(n, concurrency_key="c") for n in range(6)]
        )
        for n in (0, 1, 3, 5):
            app.cancel(runs[n])
        app.retry(runs[3])
        app.retry(runs[0])
        assert app.run_until_idle() == 4
        assert started == [runs[n].id for n in (0, 2, 3, 4)]
    finally:
        app.close()


def test_runs_of_two_engines_start_in_the_order_of_their_triggers(path: Path) -> None:
    """The order is the database's, whichever engine triggered."""
    engines = [durably.Durably(path, jobs=[other], max_workers=1) for _ in range(2)]
    try:
        started = starts_of(engines[0])
        runs = [engines[n % 2].jobs["other"].trigger(n) for n in range(10)]
        assert engines[0].run_until_idle() == 10
        assert started == [run.id for run in runs]
    finally:
        for engine in engines:
            engine.close()


# -- all at once --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_done_to_them_runs_of_one_key_never_meet(path: Path, seed: int) -> None:
    """Four threads on two engines trigger, cancel, retry and delete them at random."""
    lock = threading.Lock()
    inside: dict[str, int] = {"a": 0, "b": 0}
    met: list[str] = []

    @durably.job
    def enter(step: durably.StepContext, key: str) -> None:
        with lock:
            inside[key] += 1
            if inside[key] > 1:
                met.append(key)
        try:
            step.run("one", int)
            step.sleep(0.001)
            step.run("two", int)
        finally:
            with lock:
                inside[key] -= 1

    def disturb(app: durably.Durably, number: int) -> None:
        chance = random.Random(seed * 10 + number)
        for _ in range(60):
            key = chance.choice("ab")
            run = app.jobs["enter"].trigger(
                key, concurrency_key=key, coalesce=chance.random() < 0.3
            )
            for _ in range(chance.randrange(4)):
                call = chance.choice([app.cancel, app.retry, app.retry, app.delete_run])
                target = chance.choice([run, *app.get_runs(limit=5)])
                with contextlib.suppress(durably.ConflictError, durably.NotFoundError):
                    call(target)

    with (
        durably.Durably(path, jobs=[enter], max_workers=3) as app,
        durably.Durably(path, jobs=[enter], max_workers=3) as second,
    ):
        threads = [
            threading.Thread(target=disturb, args=((app, second)[number % 2], number))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert app.count_runs() > 0
        list(app.as_completed(app.get_runs(status=["pending", "running"])))
    assert met == []
    assert check(path, is_idle=True, is_finished=True) == []
