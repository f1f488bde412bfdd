"""redo: which results of a run are forgotten, what is kept, and when it is rejected."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from databases import open_database
from engines import record, types
from held import HeldJob
from invariants import check

import durably
from durably.errors import ConflictError, NotFoundError, ValidationError

HOUR = 3600.0


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """The database file, whose invariants hold at the end."""
    yield tmp_path / "durably.db"
    assert check(tmp_path / "durably.db") == []


class Work:
    """A job of three steps, the second of which is a map, that says what it executes."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.value = 1
        self.fails_in: set[str] = set()

    def note(self, name: str, result: int) -> int:
        self.executed.append(name)
        if name in self.fails_in:
            raise ValueError(name)
        return result

    def job(self, step: durably.StepContext) -> int:
        step.progress(1, 3)
        first = step.run("first", self.note, "first", self.value)
        items = step.map(
            "items", lambda n: self.note(f"items[{n}]", n * first), [1, 2], key=lambda n: f"k{n}"
        )
        return step.run("last", self.note, "last", sum(items))

    def take(self) -> list[str]:
        """What was executed since the last call."""
        executed, self.executed = self.executed, []
        return executed


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def app(path: Path, work: Work) -> Iterator[durably.Durably]:
    """An engine whose job is ``work``."""
    opened = durably.Durably(path, jobs=[durably.Job("work", work.job)])
    yield opened
    opened.close()


def execute(app: durably.Durably, run: Any = None) -> durably.Run:
    if run is None:
        run = app.trigger("work", idempotency_key="key", labels={"a": "b"})
    app.run_until_idle()
    return run.refresh()


@pytest.mark.parametrize(
    ("given", "again"),
    [
        ({}, ["first", "items[1]", "items[2]", "last"]),
        ({"from_step": "first"}, ["first", "items[1]", "items[2]", "last"]),
        ({"from_step": "items"}, ["items[1]", "items[2]", "last"]),
        ({"from_step": "last"}, ["last"]),
        ({"only": "first"}, ["first"]),
        ({"only": "items"}, ["items[1]", "items[2]"]),
        ({"only": "items[k2]"}, ["items[2]"]),
        ({"only": "last"}, ["last"]),
    ],
)
def test_what_is_forgotten_is_executed_again_at_its_place(
    app: durably.Durably, work: Work, given: dict[str, str], again: list[str]
) -> None:
    """The others keep their results, and each step the index that it had."""
    run = execute(app)
    work.take()
    before = {each.name for each in run.steps}

    pending = app.redo(run, **given)

    assert (pending.status, pending.attempt, pending.idempotency_key) == ("pending", 1, "key")
    assert (pending.output, pending.progress, pending.labels) == (None, None, {"a": "b"})
    names = {name.partition("[")[0] for name in again}
    assert {each.name for each in pending.steps} == before - names
    done = execute(app, run)
    assert work.take() == again
    assert (done.status, done.output, done.attempt) == ("completed", 3, 2)
    assert [(each.name, each.index) for each in done.steps] == [
        ("first", 0),
        ("items", 1),
        ("last", 2),
    ]
    assert {each.name for each in done.steps if each.attempt == 2} == names


def test_the_results_after_one_step_stay(app: durably.Durably, work: Work) -> None:
    """With ``only`` the steps that follow keep results that were made of the earlier one."""
    run = execute(app)
    work.value = 10
    app.redo(run, only="first")
    assert execute(app, run).output == 3
    app.redo(run, from_step="first")
    assert execute(app, run).output == 30


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "pending"])
def test_a_run_of_any_state_is_redone_if_nothing_executes_it(
    app: durably.Durably, work: Work, status: str
) -> None:
    """It keeps its attempts, and its error is forgotten."""
    work.fails_in = {"last"} if status == "failed" else set()
    run = app.trigger("work")
    if status in ("completed", "failed"):
        app.run_until_idle() if status == "completed" else app.process_one()
    elif status == "cancelled":
        app.cancel(run)
    assert run.refresh().status == status
    work.fails_in = set()
    work.take()
    events = record(app, "run:redo")

    pending = run.redo()

    assert (pending.status, pending.error, pending.failures) == ("pending", None, 0)
    [event] = events
    assert (event.run_id, event.job_name, event.labels) == (run.id, "work", {})
    assert (event.from_step, event.only, event.is_manual) == (None, None, False)
    done = execute(app, run)
    assert work.take() == ["first", "items[1]", "items[2]", "last"]
    begun = [] if status in ("cancelled", "pending") else [status]
    assert [each.outcome for each in done.attempts] == [*begun, "completed"]
    assert done.attempt == len(begun) + 1


def test_a_running_run_is_rejected_and_its_process_named(path: Path) -> None:
    """Nothing of it has changed."""
    with durably.Durably(path) as app, HeldJob() as held:
        app.register(held.job)
        run = app.trigger(held.job.name, 1)
        held.inside()
        for call in (app.redo, lambda each: each.redo()):
            with pytest.raises(
                ConflictError, match=rf"is running since .* in process {os.getpid()}"
            ):
                call(run.refresh())
        assert run.refresh().status == "running"
        app.cancel(run)
        with pytest.raises(
            ConflictError, match=rf"is cancelled, and process {os.getpid()} is still"
        ):
            app.redo(run)


def test_a_run_of_a_dead_process_is_put_back_first(path: Path) -> None:
    """Its process is not there any more, so nothing executes it."""
    executed = []

    def job(step: durably.StepContext) -> None:
        step.run("a", executed.append, 1)
        if len(executed) == 1:
            os._exit(9)

    if not (pid := os.fork()):
        try:
            durably.Durably(path, jobs=[durably.Job("job", job)], replace=False).run("job", key="k")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    executed.append(0)
    with durably.Durably(path) as client:
        [run] = client.runs()
        assert client.redo(run, from_step="a").status == "pending"
        assert run.steps == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"from_step": "frist"}, "has no step 'frist'; the nearest is 'first'"),
        ({"only": "lost"}, "has no step 'lost'; the nearest is 'last'"),
        ({"from_step": "x"}, "has no step 'x'; it has 'first', 'items', 'last'"),
        ({"only": "items[k3]"}, "item 'k3' of step 'items' .*; the nearest are 'k2', 'k1'"),
        ({"only": "items[0]"}, "item '0' of step 'items' .*; it has 'k1', 'k2'"),
        ({"only": "first[k1]"}, r"has no step 'first\[k1\]'; the nearest is 'first'"),
        ({"only": "]"}, "has no step"),
    ],
)
def test_an_unknown_step_is_not_found_and_the_nearest_are_named(
    app: durably.Durably, given: dict[str, str], message: str
) -> None:
    """Nothing has changed."""
    run = execute(app)
    with pytest.raises(NotFoundError, match=message):
        app.redo(run, **given)
    assert run.refresh().status == "completed"


def test_a_run_without_steps_says_so(app: durably.Durably) -> None:
    """There are none to name; all of them may be forgotten, for there are none."""
    run = app.trigger("work", delay=HOUR)
    with pytest.raises(NotFoundError, match="none of its steps is stored"):
        app.redo(run, from_step="first")
    with pytest.raises(NotFoundError, match="there is no run 'x'"):
        app.redo("x")
    assert app.redo(run).run_at == run.run_at
    with pytest.raises(ValidationError, match="from_step or only, not both"):
        app.redo(run, from_step="a", only="b")
    with pytest.raises(ValidationError, match="only"):
        app.redo(run, only=1)  # type: ignore[arg-type]


def test_it_may_be_said_twice(app: durably.Durably, work: Work) -> None:
    """A step that is forgotten already is no unknown one."""
    run = execute(app)
    work.take()
    app.redo(run, from_step="items")
    app.redo(run, only="last")
    app.redo(run, from_step="items")
    assert [each.name for each in run.steps] == ["first"]
    assert execute(app, run).attempt == 2
    assert work.take() == ["items[1]", "items[2]", "last"]


@pytest.mark.parametrize("is_map_first", [False, True])
def test_the_code_may_make_a_map_of_a_step_that_is_forgotten(
    path: Path, is_map_first: bool
) -> None:
    """It may make a step of a map, too; either keeps the place of the other."""
    is_map = is_map_first

    def job(step: durably.StepContext) -> Any:
        step.run("before", int)
        step.map("a", int, ["1"]) if is_map else step.run("a", int)
        step.run("after", int)

    with durably.Durably(path, jobs=[durably.Job("job", job)]) as app:
        run = app.trigger_and_wait("job")
        is_map = not is_map
        app.redo(run, only="a")
        assert app.wait(run).completed_steps == 3
        records = [(each.name, each.index, each.items is not None) for each in run.steps]
        assert records == [("before", 0, False), ("a", 1, is_map), ("after", 2, False)]


def test_items_without_keys_are_named_by_their_positions(path: Path) -> None:
    """A failed item is forgotten as one with a result is, and so is one of a step named so."""
    executed: list[int] = []

    def square(n: int) -> int:
        executed.append(n)
        if n == 2 and len(executed) < 4:
            raise ValueError(n)
        return n * n

    def job(step: durably.StepContext) -> None:
        step.map("m", square, range(3), on_failed="return")
        step.run("m[1]x", int)
        step.run("n[1]", executed.append, -1)

    with durably.Durably(path, jobs=[durably.Job("job", job)]) as app:
        run = app.trigger_and_wait("job")
        assert executed == [0, 1, 2, -1]
        executed[:] = [7, 7, 7, 7]
        for only, again in (("m[2]", [2]), ("m[0]", [0]), ("n[1]", [-1])):
            app.redo(run, only=only)
            app.wait(run)
            assert executed[4:] == again
            del executed[4:]
        assert [each.output for each in app.get_items(run, "m")] == [0, 1, 4]
        [of_map, *_] = run.steps
        assert (of_map.items.done, of_map.items.failed) == (3, 0)


def test_questions_and_timers_begin_again(path: Path) -> None:
    """An answer that was used is forgotten with its step; one that came before it is not."""

    def job(step: durably.StepContext) -> list[Any]:
        first = step.ask("first?")
        step.sleep_until("nap", 0.01)
        step.run("between", int)
        return [first, step.ask("second?")]

    with durably.Durably(path, jobs=[durably.Job("job", job)]) as app:
        app.stop()
        run = app.trigger("job")
        app.answer(run, "second?", 2)
        app.run_until_idle()
        assert [each.name for each in app.get_questions()] == ["first?"]
        # The question has no result yet, and is asked again.
        assert app.redo(run, from_step="first?").status == "pending"
        assert app.get_questions() == []
        app.run_until_idle()
        assert run.refresh().attempt == 2
        app.answer(run, "first?", 1)
        app.run_until_idle()
        assert run.refresh().output == [1, 2]
        app.redo(run, from_step="between")
        app.run_until_idle()
        assert [each.name for each in app.get_questions()] == ["second?"]
        app.redo(run, only="first?")
        app.run_until_idle()
        app.answer(run, "first?", 3)
        app.run_until_idle()
        app.answer(run, "second?", 4)
        app.run_until_idle()
        assert run.refresh().output == [3, 4]


def test_children_of_forgotten_steps_are_triggered_again(path: Path) -> None:
    """Those that have not ended are cancelled, and others stay; those of other steps are kept."""
    started = threading.Event()

    def parent(step: durably.StepContext) -> list[str]:
        one = step.trigger("one", "child", "one")
        two = step.trigger("two", "child", "two")
        keyed = step.trigger("keyed", "child", "keyed", idempotency_key="k")
        step.wait_for([one, two, keyed])
        return [one.id, two.id, keyed.id]

    def child(step: durably.StepContext, name: str) -> str:
        started.set()
        return name

    jobs = [durably.Job("parent", parent), durably.Job("child", child)]
    with durably.Durably(path, jobs=jobs) as app:
        app.stop()
        run = app.trigger("parent")
        assert app.process_one()  # it waits, and its children have not begun
        first = app.get_runs(parent=run)
        events = record(app)
        app.redo(run, from_step="two")
        assert types(events) == ["run:cancel", "run:redo"]
        assert {each.payload: str(each.refresh().status) for each in first} == {
            "one": "pending",
            "two": "cancelled",
            "keyed": "pending",
        }
        app.run_until_idle()
        before = run.refresh().output
        assert before[1] not in [each.id for each in first]
        assert {before[0], before[2]} <= {each.id for each in first}
        assert {each.id for each in app.get_runs(parent=run)} == set(before)
        # Once more: each is another one, but for the one with a key, and nothing is cancelled.
        for only in ("two", "one"):
            app.redo(run, only=only)
            app.run_until_idle()
        after = run.refresh().output
        assert after[0] != before[0]
        assert after[1] != before[1]
        assert after[2] == before[2]
        assert app.count_runs(status="cancelled") == 1
        app.redo(run)
        app.run_until_idle()
        assert run.refresh().status == "completed"


def test_it_takes_its_turn_in_the_queue_of_its_key(path: Path) -> None:
    """A run with a concurrency key waits behind those in front of it, whatever code began it."""

    def job(step: durably.StepContext) -> None:
        step.run("a", int)

    with durably.Durably(path, jobs=[durably.Job("job", job)]) as app:
        app.stop()
        runs = [app.trigger("job", concurrency_key="k") for _ in range(3)]
        app.run_until_idle()
        for run in reversed(runs):
            app.redo(run, from_step="a")
            app.redo(run, from_step="a")
        assert check(path) == []
        app.run_until_idle()
        assert {str(run.refresh().status) for run in runs} == {"completed"}


def test_large_results_are_removed_with_what_is_forgotten(path: Path) -> None:
    """A file to which nothing refers any more goes at once; one that another step has, stays."""
    size = 5 * 1024 * 1024

    def job(step: durably.StepContext) -> str:
        step.run("x", lambda: "x" * size)
        step.map("both", lambda letter: letter * size, ["x", "y"])
        return step.run("z", lambda: "z" * size)

    folder = Path(f"{path}.blobs")

    def files() -> int:
        return sum(1 for each in folder.rglob("*") if each.is_file() and each.stat().st_size > size)

    with durably.Durably(path, jobs=[durably.Job("job", job)]) as app:
        run = app.trigger_and_wait("job")
        assert files() == 3
        app.stop()
        app.redo(run, only="x")
        assert files() == 3  # an item has the same
        app.redo(run, from_step="z")
        assert files() == 2
        app.redo(run, only="both[1]")
        assert files() == 1
        app.redo(run)
        assert files() == 0
        app.run_until_idle()
        assert files() == 3


def test_a_session_is_redone_while_it_is_not_open(path: Path) -> None:
    """The program that opens it again executes the step again."""
    executed: list[int] = []
    with durably.Durably(path) as app:
        for _ in range(2):
            with durably.session("s", path, key="k", replace=False) as session:
                run_id = session.run_id
                session.run("a", executed.append, 1)
                with pytest.raises(ConflictError, match="is running since"):
                    app.redo(run_id)
            assert app.redo(run_id, from_step="a").status == "pending"
        assert executed == [1, 1]


def test_nothing_else_changes_a_result(path: Path, app: durably.Durably) -> None:
    """The schema rejects each other change of what has completed."""
    execute(app)
    changes = {
        "UPDATE durably_steps SET output = '7' WHERE name = 'first'": "step is final",
        "UPDATE durably_steps SET status = 'failed', output = NULL, error = '' "
        "WHERE name = 'first'": "step is final",
        "UPDATE durably_steps SET name = 'x', is_manual = 1 WHERE name = 'first'": "step is final",
        "UPDATE durably_items SET output = '7'": "item is final",
        "UPDATE durably_items SET key = 'x', is_manual = 1": "item is final",
        "UPDATE durably_runs SET status = 'pending', output = NULL, "
        "completed_at_us = NULL": "only by retry",
        "UPDATE durably_runs SET redos = 1": "put back by hand",
    }
    db = open_database(path)
    for change, message in changes.items():
        with pytest.raises(apsw.ConstraintError, match=message):
            db.execute(change)
    db.close()


def test_nothing_is_forgotten_of_a_run_that_is_executed(path: Path) -> None:
    """The schema rejects it, also from other programs."""
    changes = {
        "UPDATE durably_steps SET status = 'forgotten', output = NULL": "step is final",
        "UPDATE durably_steps SET output = '7', is_manual = 1": "step is final",
        "UPDATE durably_runs SET redos = 1": "put back by hand",
    }
    with durably.Durably(path) as app, HeldJob() as held:
        app.register(held.job)
        app.trigger(held.job.name, 1)
        held.inside()
        db = open_database(path)
        for change, message in changes.items():
            with pytest.raises(apsw.ConstraintError, match=message):
                db.execute(change)
        db.close()
