"""fork: which results a new run begins with, and what it has of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import attrs
import pytest
from databases import open_database
from engines import record
from held import HeldJob
from invariants import check

import durably
from durably.errors import ConflictError, NotFoundError, ValidationError


@attrs.frozen
class Input:
    """The payload of the job."""

    factor: int = 1


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """The database file, whose invariants hold at the end."""
    yield tmp_path / "durably.db"
    assert check(tmp_path / "durably.db") == []


@pytest.fixture
def executed() -> list[str]:
    """What the job has executed, in order."""
    return []


@pytest.fixture
def app(path: Path, executed: list[str]) -> Iterator[durably.Durably]:
    """An engine that was not started, with a job of a step, a map and a step."""

    def note(name: str, value: int) -> int:
        executed.append(name)
        return value

    def job(step: durably.StepContext, given: Input) -> int:
        first = step.run("first", note, "first", 1)
        items = step.map("items", lambda n: note(f"items[{n}]", n), [1, 2], key=str)
        return step.run("last", note, "last", (first + sum(items)) * given.factor)

    opened = durably.Durably(path, jobs=[durably.Job("job", job)])
    yield opened
    opened.close()


def execute(app: durably.Durably, run: Any = None, **options: Any) -> durably.Run:
    if run is None:
        run = app.trigger("job", Input(), **options)
    app.run_until_idle()
    return run.refresh()


@pytest.mark.parametrize(
    ("from_step", "again"),
    [
        (None, []),
        ("last", ["last"]),
        ("items", ["items[1]", "items[2]", "last"]),
        ("first", ["first", "items[1]", "items[2]", "last"]),
    ],
)
def test_the_results_before_a_step_are_copied(
    app: durably.Durably, executed: list[str], from_step: str | None, again: list[str]
) -> None:
    """The new run executes the others, and the first one stays as it is."""
    first = execute(app, idempotency_key="k", concurrency_key="c", labels={"a": "b"})
    before = [first.steps, first.items("items"), first.attempts]
    executed.clear()
    events = record(app)

    run = app.fork(first, from_step=from_step)

    [event] = events
    assert (event.type, event.run_id, event.forked_from) == ("run:fork", run.id, first.id)
    assert (event.from_step, event.labels) == (from_step, {"a": "b"})
    assert (run.status, run.attempt, run.forked_from) == ("pending", 0, first.id)
    assert (run.idempotency_key, run.concurrency_key, run.labels) == (None, "c", {"a": "b"})
    assert (run.payload, run.output, run.started_at) == (Input(), None, None)
    copied = {"first", "items", "last"} - {name.partition("[")[0] for name in again}
    assert run.steps == [each for each in first.steps if each.name in copied]
    done = execute(app, run)
    assert executed == again
    assert (done.output, done.attempt, done.forked_from) == (4, 1, first.id)
    assert [(each.name, each.index) for each in done.steps] == [
        ("first", 0),
        ("items", 1),
        ("last", 2),
    ]
    assert [first.steps, first.items("items"), first.attempts] == before
    app.delete_run(first)
    assert done.refresh().forked_from == first.id


def test_it_may_have_a_payload_and_a_key_of_its_own(app: durably.Durably) -> None:
    """The payload must fit the job, and no other run may have the key."""
    first = execute(app, idempotency_key="one")
    run = first.fork(from_step="last", payload=Input(10), key="two")
    assert (run.payload, run.idempotency_key) == (Input(10), "two")
    assert execute(app, run).output == 40
    assert execute(app, first.fork(from_step="last", payload={"factor": 5})).output == 20
    for key in ("one", "two"):
        with pytest.raises(ConflictError, match=f"the key '{key}' of 'job' is that of run"):
            app.fork(first, key=key)
    with pytest.raises(ValidationError, match="factor"):
        app.fork(first, payload={"factor": "x"})
    with pytest.raises(ValidationError, match="key"):
        app.fork(first, key="")
    with pytest.raises(NotFoundError, match="the nearest is 'last'"):
        app.fork(first, from_step="lost")
    assert app.count_runs() == 3
    app.close()
    with durably.Durably(app._client.path) as stranger:
        assert stranger.fork(first).payload == {"factor": 1}
        assert stranger.fork(first, payload={"factor": 7}).payload == {"factor": 7}
        with pytest.raises(ValidationError, match="the payload of job"):
            stranger.fork(first, payload=object())


def test_a_fork_of_a_failed_run_goes_on_where_it_failed(path: Path) -> None:
    """What has failed keeps its place, and an item with a result is not executed again."""
    executed: list[Any] = []
    failing = {2, "b"}

    def note(what: Any) -> Any:
        executed.append(what)
        if what in failing:
            raise ValueError(what)
        return what

    def job(step: durably.StepContext) -> list[Any]:
        try:
            step.run("b", note, "b")
        except ValueError:
            step.run("c", note, "c")
        return step.map("m", note, [1, 2, 3])

    with durably.Durably(path, jobs=[durably.Job("job", job)], raise_failed=False) as app:
        app.stop()
        first = app.trigger("job")
        app.run_until_idle()
        assert first.refresh().status == "failed"
        failing.clear()
        executed.clear()
        run = app.fork(first)
        app.run_until_idle()
        assert executed == ["b", 2]
        assert [(each.name, each.index) for each in run.steps] == [("b", 0), ("c", 1), ("m", 2)]
        assert run.refresh().output == [1, 2, 3]
        assert first.refresh().status == "failed"
        assert [each.attempts for each in run.items("m")] == [1, 2, 1]


def test_a_run_that_is_executed_is_rejected(path: Path) -> None:
    """One that waits is not being executed, and its timer begins anew in the fork."""
    naps = [3600.0, 0.01]

    def job(step: durably.StepContext) -> None:
        step.run("a", int)
        step.sleep_until("nap", naps.pop(0))

    with durably.Durably(path, jobs=[durably.Job("job", job)]) as app, HeldJob() as held:
        app.register(held.job)
        running = app.trigger(held.job.name, 1)
        held.inside()
        with pytest.raises(ConflictError, match="is running since .* cannot be forked"):
            running.fork()
        held.let_go()
        app.wait(running)
        app.stop()
        run = app.trigger("job")
        app.run_until_idle()
        assert run.refresh().status == "waiting"
        fork = app.fork(run)
        assert [each.name for each in fork.steps] == ["a"]
        app.run_until_idle()
        assert (run.refresh().status, fork.refresh().status) == ("waiting", "completed")
        app.cancel(run)


def test_questions_are_asked_again_unless_they_are_answered(path: Path) -> None:
    """What was prepared and is open is prepared again, with what follows; answers are copied."""
    sent: list[str] = []

    def job(step: durably.StepContext) -> list[Any]:
        tickets = []
        for n in (1, 2):
            tickets.append(step.prepare(f"ticket {n}"))
            step.run(f"send {n}", sent.append, tickets[-1].id)
        first = step.wait_for(tickets[0])
        return [first, step.ask("ask"), step.wait_for(tickets[1])]

    with durably.Durably(path, jobs=[durably.Job("job", job)]) as app:
        app.stop()
        run = app.trigger("job")
        app.run_until_idle()
        app.signal(sent[0], "one")
        app.run_until_idle()
        app.answer(run, "ask", "asked")
        app.run_until_idle()
        assert run.refresh().waiting_for.name == "ticket 2"

        fork = app.fork(run)

        assert [each.name for each in fork.steps] == ["ticket 1", "send 1"]
        app.run_until_idle()
        assert [each.name for each in app.get_questions() if each.run_id == fork.id] == [
            "ticket 2",
            "ask",
        ]
        assert len({*sent}) == len(sent) == 3
        app.answer(fork, "ask", "again")
        app.signal(sent[2], "three")
        app.signal(sent[1], "two")
        app.run_until_idle()
        assert run.refresh().output == ["one", "asked", "two"]
        assert fork.refresh().output == ["one", "again", "three"]
        # Nothing is open now.
        copy = app.fork(run, from_step="ask")
        app.answer(copy, "ask", "third")
        app.run_until_idle()
        assert copy.refresh().output == ["one", "third", "two"]
        # Nor is it in the copy of a copy.
        again = app.fork(copy, from_step="ask")
        app.answer(again, "ask", "fourth")
        app.run_until_idle()
        assert again.refresh().output == ["one", "fourth", "two"]


def test_children_are_shared(path: Path) -> None:
    """The copy of a trigger is the same run, and stays the child of the first one."""

    def parent(step: durably.StepContext) -> list[str]:
        run = step.trigger("trigger", "child")
        return [run.id, step.wait_for(run), step.call("call", "child")]

    def child(step: durably.StepContext) -> str:
        return step.run_id

    jobs = [durably.Job("parent", parent), durably.Job("child", child)]
    with durably.Durably(path, jobs=jobs) as app:
        app.stop()
        run = app.trigger("parent")
        app.run_until_idle()
        fork = app.fork(run, from_step="call")
        app.run_until_idle()
        first, second = run.refresh().output, fork.refresh().output
        assert first[:2] == second[:2]
        assert first[2] != second[2]
        assert [each.id for each in app.get_runs(parent=fork)] == [second[2]]


def test_large_results_stay_as_long_as_a_copy_has_them(path: Path) -> None:
    """The files of the first run go with the last copy; a large payload is a file as well."""
    size = 5 * 1024 * 1024

    def job(step: durably.StepContext, text: str) -> int:
        step.run("x", lambda: "x" * size)
        step.map("both", lambda letter: letter * size, ["x", "y"])
        step.run("z", lambda: "z" * size)
        return len(text)

    folder = Path(f"{path}.blobs")

    def files() -> int:
        return sum(1 for each in folder.rglob("*") if each.is_file() and each.stat().st_size > size)

    with durably.Durably(path, jobs=[durably.Job("job", job)]) as app:
        app.stop()
        first = app.trigger("job", "a" * size)
        app.run_until_idle()
        assert files() == 4
        fork = app.fork(first, from_step="z", payload="b" * size)
        other = app.fork(first)
        app.cancel(other)
        assert files() == 5
        app.delete_run(first)
        assert files() == 5
        app.delete_run(other)
        assert files() == 3  # x, y and b
        app.run_until_idle()
        assert fork.refresh().output == size
        app.delete_run(fork)
        assert files() == 0


def test_a_session_is_forked_by_a_key(path: Path) -> None:
    """The program that opens it goes on with the copies."""
    executed: list[int] = []
    with durably.session("s", path, key="one", replace=False) as session:
        run_id = session.run_id
        session.run("a", executed.append, 1)
        session.run("b", executed.append, 2)
    with durably.Durably(path) as app:
        fork = app.fork(run_id, from_step="b", key="two")
        assert (fork.kind, fork.status) == ("session", "pending")
        with pytest.raises(ConflictError, match="is a session, which has no payload"):
            app.fork(run_id, payload=1)
        with durably.session("s", path, key="two", replace=False) as session:
            assert session.run_id == fork.id
            session.run("a", executed.append, 1)
            session.run("b", executed.append, 2)
    assert executed == [1, 2, 2]


def test_every_column_of_a_result_is_copied(app: durably.Durably, path: Path) -> None:
    """A copy differs in its place alone."""
    first = execute(app)
    app.set_step(first, "first", 7)
    app.set_item(first, "items", "1", 8)
    fork = app.fork(first)
    places = {
        # The execution that has stored it is none of the fork's; when it was is kept.
        "durably_steps": (ORDERED, "step >> 24 = ?", {"step", "run", "fence", "layer"}),
        "durably_maps": (ORDERED, "run = ?", {"step", "run", "map", "fence", "layer"}),
        "durably_items": (
            "*",
            "item >> 30 IN (SELECT map FROM durably_maps WHERE run = ?)",
            {"item"},
        ),
    }
    db = open_database(path)
    try:
        for table, (columns, condition, own) in places.items():
            mine, copies = (
                [
                    {name: value for name, value in row.items() if name not in own}
                    for row in rows_of(db, f"SELECT {columns} FROM {table} WHERE {condition}", run)
                ]
                for run in (1, 2)
            )
            assert copies == mine != []
    finally:
        db.close()
    assert execute(app, fork).output == 4


ORDERED = "*, coalesce(layer, fence << 24) AS stored_in_order"


def rows_of(db: apsw.Connection, query: str, run: int) -> list[dict[str, Any]]:
    cursor = db.execute(query, (run,))
    return [
        dict(zip((name for name, _ in cursor.get_description()), row, strict=True))
        for row in cursor
    ]
