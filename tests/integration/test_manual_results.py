"""set_step and set_item: results that a person sets."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import attrs
import pytest
from clikit import command
from engines import record
from held import HeldJob
from invariants import check

import durably
from durably.errors import (
    ConflictError,
    NotFoundError,
    SerializationError,
    ValidationError,
)


@attrs.frozen
class Row:
    """What a step returns."""

    name: str
    born: date


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """The database file, whose invariants hold at the end."""
    yield tmp_path / "durably.db"
    assert check(tmp_path / "durably.db") == []


def parsed(text: str) -> Row:
    name, born = text.split(",")
    return Row(name, date.fromisoformat(born))


ROWS = ["ada,1815-12-10", "poison", "alan,1912-06-23"]


def job(step: durably.StepContext) -> list[str]:
    first = step.run("first", parsed, ROWS[0])
    rows = step.map("rows", parsed, ROWS, key=lambda text: text.partition(",")[0])
    last = step.run("last", parsed, ROWS[1])
    return [f"{row.name} {row.born.year}" for row in (first, *rows, last)]


@pytest.fixture
def app(path: Path) -> Iterator[durably.Durably]:
    """An engine that was not started."""
    opened = durably.Durably(path, jobs=[durably.Job("job", job)], raise_failed=False)
    yield opened
    opened.close()


def execute(app: durably.Durably, run: Any = None) -> durably.Run:
    run = app.trigger("job") if run is None else run
    app.run_until_idle()
    return run.refresh()


def test_a_poison_row_gets_a_result(app: durably.Durably) -> None:
    """A failed item and a failed step go on with what was set, once the run is retried."""
    run = execute(app)
    assert run.status == "failed"
    events = record(app, "run:redo")
    assert app.set_item(run, "rows", "poison", Row("?", date(1, 1, 1))) is None
    assert run.refresh().status == "failed"
    [event] = events
    assert (event.run_id, event.from_step, event.only, event.is_manual) == (
        run.id,
        None,
        "rows[poison]",
        True,
    )
    records = {each.key: each for each in run.items("rows")}
    assert [each.is_manual for each in records.values()] == [False, True, False]
    assert (records["poison"].status, records["poison"].error) == ("completed", None)
    assert run.steps[1].items == durably.ItemCounts(3, 0, 0, 3)
    run = execute(app, app.retry(run))
    assert [(each.name, each.status) for each in run.steps] == [
        ("first", "completed"),
        ("rows", "completed"),
        ("last", "failed"),
    ]
    run.set_step("last", {"name": "hand", "born": "2000-01-01"})
    assert [(each.name, each.is_manual) for each in run.steps][1:] == [
        ("rows", False),
        ("last", True),
    ]
    done = execute(app, app.retry(run))
    assert done.output == ["ada 1815", "ada 1815", "? 1", "alan 1912", "hand 2000"]
    assert check(app._client.path) == []


def test_a_result_is_replaced(app: durably.Durably) -> None:
    """The result of a completed run is replaced too, and nothing is executed for that."""
    run = execute(app)
    run.set_item("rows", "poison", {"name": "x", "born": "1900-01-01"})
    run.set_item("rows", "ada", Row("y", date(1901, 1, 1)))
    run = execute(app, app.retry(run))
    run.set_step("last", Row("z", date(1902, 1, 1)))
    run.set_step("first", Row("w", date(1903, 1, 1)))
    done = execute(app, app.retry(run))
    assert done.output == ["w 1903", "y 1901", "x 1900", "alan 1912", "z 1902"]
    before = done.steps[0].completed_at
    done.set_step("first", Row("v", date(1904, 1, 1)))
    assert done.refresh().status == "completed"
    assert done.steps[0].completed_at >= before
    # What is executed again is not set by hand any more.
    app.redo(run, only="first")
    app.set_step(run, "first", Row("u", date(1905, 1, 1)))
    assert execute(app, run).output[0] == "u 1905"
    app.redo(run, only="first")
    assert execute(app, run).output[0] == "ada 1815"
    assert not run.steps[0].is_manual


def test_a_value_that_does_not_fit_is_found_where_it_is_used(app: durably.Durably) -> None:
    """It must have a stored form, and the type of the function is known only to the job."""
    run = execute(app)
    with pytest.raises(SerializationError, match="the result of step 'first'"):
        app.set_step(run, "first", object())
    with pytest.raises(SerializationError, match="poison"):
        app.set_item(run, "rows", "poison", object())
    app.set_step(run, "first", {"name": 1})
    failed = execute(app, app.retry(run))
    assert "first" in str(failed.error)
    assert "born" in str(failed.error)


def test_what_was_never_stored_is_not_found(app: durably.Durably) -> None:
    """The nearest names are listed; a map is no step, and a step no map."""
    run = execute(app)
    with pytest.raises(NotFoundError, match="the nearest is 'first'"):
        app.set_step(run, "frist", 1)
    with pytest.raises(NotFoundError, match="has no step 'last'"):
        app.set_step(run, "last", 1)
    with pytest.raises(NotFoundError, match="there is no run 'x'"):
        app.set_step("x", "first", 1)
    with pytest.raises(NotFoundError, match="item 'adda' .*; the nearest are 'ada', 'alan'"):
        app.set_item(run, "rows", "adda", 1)
    with pytest.raises(NotFoundError, match="the nearest is 'rows'"):
        app.set_item(run, "row", "ada", 1)
    with pytest.raises(ConflictError, match="'rows' .* is a map"):
        app.set_step(run, "rows", [])
    with pytest.raises(ConflictError, match="'first' .* is no map"):
        app.set_item(run, "first", "ada", 1)
    with pytest.raises(ValidationError, match="key must be a str or an int, not bool"):
        app.set_item(run, "rows", True, 1)


def test_a_run_that_is_executed_is_rejected(path: Path) -> None:
    """Nothing has changed."""
    with durably.Durably(path) as app, HeldJob() as held:
        app.register(held.job)
        run = app.trigger(held.job.name, 1)
        held.inside()
        with pytest.raises(ConflictError, match="is running since .* cannot be changed"):
            app.set_step(run, "first", 2)
        with pytest.raises(ConflictError, match="is running since .* cannot be changed"):
            app.set_item(run, "first", 1, 2)
        held.let_go()
        assert app.wait(run).output == 1


def test_items_without_keys_are_named_by_their_positions(path: Path) -> None:
    """A key that is a number is named by the number, as text too."""

    def by_position(step: durably.StepContext) -> list[int]:
        step.map("keyed", int, [5, 6], key=lambda n: n - 10)
        return step.map("m", int, ["1", "2"])

    with durably.Durably(path, jobs=[durably.Job("job", by_position)]) as app:
        run = app.trigger_and_wait("job")
        app.set_item(run, "m", 1, 20)
        app.set_item(run, "m", "0", 10)
        app.set_item(run, "keyed", -5, 50)
        app.set_step(run, "keyed[-4]", 60)
        with pytest.raises(NotFoundError, match="item 2 of step 'm'"):
            app.set_item(run, "m", 2, 1)
        assert [each.output for each in run.items("keyed")] == [50, 60]
        assert app.wait(app.redo(run, only="m[0]")).output == [1, 20]


def test_a_step_that_is_waited_for_wakes_its_run(path: Path) -> None:
    """A question that has timed out and is asked again is settled by its result."""
    timeouts = [0.01, 3600]

    def asking(step: durably.StepContext) -> Any:
        return step.ask("ok?", timeout=timeouts.pop(0))

    with durably.Durably(path, jobs=[durably.Job("job", asking)], raise_failed=False) as app:
        app.stop()
        run = app.trigger("job")
        with pytest.raises(NotFoundError, match="none of its steps"):
            app.set_step(run, "ok?", True)
        app.run_until_idle()
        app.retry(run)
        app.run_until_idle()
        assert run.refresh().status == "waiting"
        app.set_step(run, "ok?", True)
        timeouts.append(3600)
        app.run_until_idle()
        assert run.refresh().output is True

        other = app.trigger("job")
        timeouts.append(3600)
        app.run_until_idle()
        with pytest.raises(NotFoundError, match="waits and has no result yet"):
            app.set_step(other, "ok?", True)
        app.cancel(other)


def test_large_values_become_files(path: Path) -> None:
    """The files that they replace are removed."""
    size = 5 * 1024 * 1024
    folder = Path(f"{path}.blobs")

    def files() -> int:
        return sum(1 for each in folder.rglob("*") if each.is_file() and each.stat().st_size > size)

    def large(step: durably.StepContext) -> int:
        step.run("a", lambda: "a" * size)
        step.map("m", lambda n: n * size, ["b"])
        return 1

    with durably.Durably(path, jobs=[durably.Job("job", large)]) as app:
        run = app.trigger_and_wait("job")
        assert files() == 2
        app.set_step(run, "a", "c" * size)
        app.set_item(run, "m", 0, "d" * size)
        assert files() == 2
        assert run.steps[0].output == "c" * size
        app.set_step(run, "a", 1)
        app.set_item(run, "m", 0, 2)
        assert files() == 0


@attrs.frozen
class Before:
    """A class as it was when a result of it was stored."""

    name: str


@attrs.frozen
class After:
    """The same with another field, which has no default."""

    name: str
    size: int


AFTER = {"name": "b", "size": 2}


def use(step: durably.StepContext, fn: Any, kind: str) -> str:
    """Return what a step, or the one item of a map, returns."""
    if kind == "step":
        return repr(step.options(returns=type(fn())).run("read it", fn))
    results = step.map("read it", lambda _: fn(), ["k 1"], key=str, returns=type(fn()))
    return repr(results[0])


@pytest.mark.parametrize("origin", ["earlier code", "by hand"])
@pytest.mark.parametrize("kind", ["step", "item"])
@pytest.mark.parametrize("way", ["redo", "set"])
def test_the_ways_out_that_a_misfit_names_work_as_written(
    path: Path, way: str, kind: str, origin: str
) -> None:
    """The error of a result that does not fit names calls, which a user copies from it."""

    def before() -> Before:
        return Before("a")

    def after() -> After:
        return After("a", 1)

    functions: list[Any] = [before]

    def changed(step: durably.StepContext) -> str:
        return use(step, functions[0], kind)

    with durably.Durably(path, jobs=[durably.Job("job", changed)], raise_failed=False) as app:
        app.stop()
        run = app.trigger("job")
        app.run_until_idle()
        functions[0] = after
        if origin == "by hand" and kind == "step":
            app.set_step(run, "read it", ["c"])
        elif origin == "by hand":
            app.set_item(run, "read it", "k 1", ["c"])
        app.fork(run)
        app.run_until_idle()
        [failed, _] = app.runs()
        message = str(failed.error)
        said = "set by hand" if origin == "by hand" else "stored by an earlier version of the code"
        assert re.search(rf"it was {said} \(.*:\d\d\): ", message)
        (call,) = re.findall(rf"app\.{way}\w*\(.*?\)", message)
        eval(call, {"app": app, "run": failed, "value": AFTER})
        if way == "set":
            app.retry(failed)
        app.run_until_idle()
        value = After("a", 1) if way == "redo" else After("b", 2)
        assert failed.refresh().output == repr(value)


@pytest.mark.parametrize("kind", ["step", "item"])
@pytest.mark.parametrize("way", ["redo", "set"])
def test_the_ways_out_of_a_session_are_commands_on_its_file(
    tmp_path: Path, way: str, kind: str
) -> None:
    """A session has no app; a file with another name than durably.db is named, as a shell reads it.

    The second time the result was set by hand.
    """
    path = tmp_path / "a file.db"

    def start(fn: Any) -> str:
        with durably.session("s", path, key="s") as step:
            return use(step, fn, kind)

    start(lambda: Before("a"))
    for said in ("earlier version", "by hand"):
        with pytest.raises(durably.SerializationError, match=re.escape(said)) as caught:
            start(lambda: After("a", 1))
        (line,) = re.findall(rf"durably {way} .*? --db '.*?'", str(caught.value))
        arguments = shlex.split(line)[1:]
        given = [json.dumps(AFTER) if each == "JSON" else each for each in arguments]
        assert command(None, *given).exit_code == 0
        value = After("b", 2) if way == "set" else After("a", 1)
        assert start(lambda: After("a", 1)) == repr(value)
        with durably.Durably(path) as app:
            (run,) = app.get_runs()
            if kind == "step":
                app.set_step(run, "read it", 3)
            else:
                app.set_item(run, "read it", "k 1", 3)
