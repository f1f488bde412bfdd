"""Code that changes between two executions of a run: what is said, and what is used."""

from __future__ import annotations

import functools
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from engines import again, engine, execute, record
from invariants import check

import durably

pytestmark = pytest.mark.filterwarnings("error::durably.CodeChangedWarning")


def clean_1(rows: int) -> int:
    """The first version."""
    return rows + 1


def clean_2(rows: int) -> int:
    """The second one."""
    return rows + 2


def named(function: Any, name: str) -> Any:
    """Return *function* as one with that name."""
    function.__name__ = function.__qualname__ = name
    return function


first, second = named(clean_1, "clean"), named(clean_2, "clean")


def said(text: str) -> str:
    """Return a message without the time in it."""
    return re.sub(r"\((\d{4}-\d\d-\d\d )?\d\d:\d\d\)", "(…)", text)


def executed_by(tmp_path: Path, *codes: Any, **options: Any) -> list[Any]:
    """Execute one run by each of several jobs; return it after each. All but the last one fail."""

    def job_of(code: Any, *, is_last: bool) -> Any:
        def job(step: durably.StepContext) -> Any:
            result = code(step)
            if not is_last:
                raise ValueError
            return result

        return durably.Job("job", job, origin="any")

    run, found = None, []
    for number, code in enumerate(codes, 1):
        with engine(tmp_path, job_of(code, is_last=number == len(codes)), **options) as app:
            run = execute(app) if run is None else again(app, run.id)
            found.append(run)
    return found


def test_a_result_of_other_code_is_used_with_a_warning(tmp_path: Path) -> None:
    """Once for each function, at the job's line; the run says it too."""
    codes = [
        lambda step, fn=fn: [step.run(f"clean-{n}", fn, n) for n in range(3)]
        for fn in (first, second)
    ]
    with pytest.warns(durably.CodeChangedWarning) as warned:
        before, after = executed_by(tmp_path, *codes)
    assert [said(str(each.message)) for each in warned] == [
        (
            "step 'clean-0' was stored by an earlier version of clean() (…); its result is used. "
            "To execute it again: app.redo(run, from_step='clean-0')"
        )
    ]
    assert warned[0].filename == __file__
    assert after.output == [1, 2, 3]
    assert (before.code_changed, after.code_changed) == (False, True)
    assert after.to_dict()["code_changed"] is True


def test_each_function_is_said_once(tmp_path: Path) -> None:
    """Two functions give two warnings, and give them again in the next execution."""

    def code(fn: Any, other: Any) -> Any:
        return lambda step: (step.run("a", fn, 1), step.run("b", other, 1), step.run("c", fn, 1))

    load_1, load_2 = named(lambda n: n, "load"), named(lambda n: -n, "load")
    with pytest.warns(durably.CodeChangedWarning) as warned:
        executed_by(tmp_path, code(first, load_1), *[code(second, load_2) for _ in range(2)])
    assert [str(each.message).split()[1] for each in warned] == ["'a'", "'b'"] * 2


def test_code_that_is_the_same_is_not_said_to_have_changed(tmp_path: Path) -> None:
    """It is at another place, in a partial or a method, or nothing is known of it."""

    class Cleaner:
        def clean(self, rows: int) -> int:
            return rows + 1

    one, two = (Cleaner().clean for _ in range(2))
    for number, (before, after) in enumerate(
        [
            (first, named(lambda count: count + 1, "clean")),
            (first, functools.partial(first)),
            (one, two),
            (int, first),
            (first, int),
            (lambda n: n, lambda n: n),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        codes = [lambda step, fn=fn: step.run("clean", fn, 1) for fn in (before, after)]
        run = executed_by(folder, *codes)[-1]
        assert run.status == "completed"
        assert not run.code_changed


def test_waits_and_children_are_durablys_own_code(tmp_path: Path) -> None:
    """Another version of durably is no change of a run's code."""

    def code(step: durably.StepContext) -> None:
        step.sleep_until("nap", 0.001)
        step.poll("poll", lambda: True, every=0.01)

    executed_by(tmp_path, code, code)
    with engine(tmp_path) as app:
        rows = app._store.database.read(
            lambda db: db.execute("SELECT code FROM durably_steps").fetchall()
        )
    assert rows == [(None,), (None,)]


def test_results_of_a_map_that_other_code_has_made(tmp_path: Path) -> None:
    """All or some of them: one warning, and the new items know their own code."""

    def code(fn: Any, count: int) -> Any:
        return lambda step: step.map("clean", fn, range(count))

    with pytest.warns(durably.CodeChangedWarning) as warned:
        runs = executed_by(tmp_path, code(first, 3), code(second, 5))
    assert runs[-1].output == [1, 2, 3, 5, 6]
    assert runs[-1].code_changed
    assert [said(str(each.message)) for each in warned] == [
        (
            "step 'clean' was stored by an earlier version of clean() (…); its results are used. "
            "To execute it again: app.redo(run, from_step='clean')"
        )
    ]
    assert check(tmp_path / "durably.db") == []


def test_items_of_two_versions_are_told_apart(tmp_path: Path) -> None:
    """Whichever of the two is today's, results of the other one are used."""

    def code(fn: Any, count: int) -> Any:
        return lambda step: step.map("clean", fn, range(count), key=str)

    with pytest.warns(durably.CodeChangedWarning) as warned:
        executed_by(tmp_path, *[code(first, 3), *[code(second, 5)] * 2, *[code(first, 5)] * 2])
    assert len(warned) == 4


def test_steps_that_are_not_used_any_more_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the event, the attempt and the log, once a resumed run has completed."""

    def old(step: durably.StepContext) -> None:
        for number in range(6):
            step.run(f"old-{number}", int, 1)
        step.map("items", int, [1, 2])
        step.run("kept", int, 2)
        with pytest.raises(ZeroDivisionError):
            step.run("fails", lambda: 1 // 0)

    def new(step: durably.StepContext) -> None:
        step.run("renamed", int, 1)
        step.run("kept", int, 2)

    names = ("old-0", "old-1", "old-2", "old-3", "old-4", "old-5", "items")
    caplog.set_level(logging.INFO, "durably")

    def failing(step: durably.StepContext) -> None:
        old(step)
        raise ValueError

    (run,) = executed_by(tmp_path, failing)
    with engine(tmp_path, durably.Job("job", new, origin="any")) as app:
        events = record(app, "run:complete")
        run = again(app, run.id)
        assert run.status == "completed"
        assert [event.unused_steps for event in events] == [names]
        assert [each.unused_steps for each in app.get_attempts(run)] == [(), names]
        (event,) = app.subscribe(run)
        assert event.unused_steps == names
    lines = [line for line in caplog.messages if "not used" in line]
    assert [line.partition("7 stored")[2] for line in lines] == [
        (
            " steps were not used, as after a step was renamed or removed: 'old-0', 'old-1', "
            "'old-2', 'old-3', 'old-4' and 2 more"
        )
    ]
    assert check(tmp_path / "durably.db") == []


def test_steps_inside_of_a_stored_step_count_as_used(tmp_path: Path) -> None:
    """A step that returns from its checkpoint does not call those inside of it."""

    def outer(step: durably.StepContext, *, inner: str) -> int:
        return step.run(inner, int, 1)

    def code(step: durably.StepContext, *, inner: str = "inner", more: str = "") -> None:
        step.run("outer", outer, step, inner=inner)
        step.map("items", lambda n: step.run(f"of-{n}", int, n), [1, 2])
        if more:
            step.run(more, outer, step, inner=more + "-inner")

    *_, last = executed_by(tmp_path, code, lambda step: code(step, inner="x", more="y"))
    with engine(tmp_path) as app:
        assert app.get_attempts(last)[-1].unused_steps == ()


def test_an_inner_step_that_an_executed_one_does_not_use_is_named(tmp_path: Path) -> None:
    """The outer step had failed, and is executed again by other code."""

    def outer(step: durably.StepContext, inner: str) -> int:
        return step.run(inner, int, 1)

    def failing(step: durably.StepContext) -> int:
        step.run("inner", int, 1)
        raise ValueError

    def old(step: durably.StepContext) -> None:
        with pytest.raises(ValueError):
            step.run("outer", failing, step)

    *_, last = executed_by(tmp_path, old, lambda step: step.run("outer", outer, step, "other"))
    with engine(tmp_path) as app:
        assert app.get_attempts(last)[-1].unused_steps == ("inner",)


@define
class Rows:
    n: int


@define
class RowsWithLast:
    n: int
    last: str


@pytest.mark.parametrize("kind", ["step", "item"])
def test_a_result_that_does_not_fit_any_more_names_the_ways_out(tmp_path: Path, kind: str) -> None:
    """The field, the step and when it was stored."""

    def code(type_: Any) -> Any:
        if kind == "step":
            return lambda step: step.options(returns=type_).run("read", make)
        return lambda step: len(step.map("read", lambda _: make(), ["a"], returns=type_, key=str))

    def make() -> Any:
        return Rows(1)

    run = executed_by(tmp_path, code(Rows), code(RowsWithLast))[-1]
    assert run.error.type == "durably.SerializationError"
    what, calls = (
        ("the stored result of step 'read'", "the step again, or app.set_step(run, 'read', value)")
        if kind == "step"
        else (
            "step 'read': the stored result of item 'a'",
            "the map again, or app.set_item(run, 'read', 'a', value)",
        )
    )
    assert said(run.error.message) == (
        f"{what}: $.last: required, but missing; it was stored by an earlier version of the code "
        "(…): give new fields a default, or app.redo(run, from_step='read') executes "
        f"{calls} stores another result{'' if kind == 'step' else ' of this item'}"
    )


SCRIPT = """
import os, sys, logging, durably
logging.basicConfig(level=logging.INFO, format="%(message)s")
def fetch(n) -> int: return n
@durably.job("crawl")
def crawl(step):
    total = 0
    for number in range(4):
        total += step.run(f"page-{number}", fetch, number)
    DIE
    return total
with durably.Durably("crawl.db", jobs=[crawl]) as app:
    print(app.run(crawl, key="k").output)
"""


def test_a_job_that_was_edited_after_its_process_was_killed(tmp_path: Path) -> None:
    """The log says that the code has changed since which attempt, and what is kept."""
    script = tmp_path / "crawl.py"
    done = None
    for edit in ("os._exit(9)", "total += 1"):
        script.write_text(SCRIPT.replace("DIE", edit))
        done = subprocess.run(
            [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert done is not None
    assert (
        "its code has changed since attempt 1; 4 completed steps keep their results" in done.stderr
    )
    assert done.stdout == "7\n"
