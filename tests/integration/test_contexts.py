"""Each execution has a context of its own: a copy of the one in which the engine was made."""

from __future__ import annotations

import contextvars
import decimal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from engines import GRACE_S, engine, execute, record

import durably

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")

WHOLE: Final = "0.3333333333333333333333333333"  # with the default precision


@pytest.fixture(autouse=True)
def _own_context() -> Iterator[None]:
    token = tenant.set("maker")
    with decimal.localcontext(decimal.DefaultContext):
        yield
    tenant.reset(token)


def seen() -> list[str]:
    return [tenant.get(), str(decimal.Decimal(1) / 3)]


def change_in_place() -> None:
    tenant.set("job")
    decimal.getcontext().prec = 3
    decimal.getcontext().traps[decimal.Inexact] = True


def change_for_another() -> None:
    tenant.set("job")
    decimal.setcontext(decimal.Context(prec=4, traps=[decimal.Inexact]))


def job(step: durably.StepContext, payload: str | None) -> list[str]:
    before = seen()
    if payload is not None:
        {"place": change_in_place, "other": change_for_another}[payload]()
    return before


def by_the_pool(app: durably.Durably, payload: str | None) -> Any:
    return app.jobs["job"].trigger_and_wait(payload, timeout=GRACE_S).output


def in_the_calling_thread(app: durably.Durably, payload: str | None) -> Any:
    return execute(app, payload).output


@pytest.mark.parametrize("change", ["place", "other"])
@pytest.mark.parametrize("run", [by_the_pool, in_the_calling_thread], ids=lambda run: run.__name__)
def test_what_one_run_sets_is_not_seen_by_the_next(
    tmp_path: Path, run: Callable[..., Any], change: str
) -> None:
    """Nor by the thread that made the engine, or the one that executes: no value, no precision."""
    with engine(tmp_path, job, max_workers=1) as app:
        if run is by_the_pool:
            app.start()
        assert run(app, change) == ["maker", WHOLE]
        assert run(app, None) == ["maker", WHOLE]
        assert seen() == ["maker", WHOLE]


def test_a_run_that_follows_in_the_same_thread_at_once_has_a_context_too(tmp_path: Path) -> None:
    """It is claimed with the end of the one before, by the thread that executed that."""
    with engine(tmp_path, job, max_workers=1) as app:
        runs = app.jobs["job"].batch_trigger(["place", "other", None, "place", None])
        app.start()
        outputs = [app.wait(run, timeout=GRACE_S).output for run in runs]
    assert outputs == [["maker", WHOLE]] * 5


@pytest.mark.parametrize("run", [by_the_pool, in_the_calling_thread], ids=lambda run: run.__name__)
def test_a_run_sees_what_was_set_where_the_engine_was_made(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    """As it was then: what its maker, or the caller, sets afterwards is not seen."""
    decimal.getcontext().prec = 5
    with engine(tmp_path, job) as app:
        if run is by_the_pool:
            app.start()
        tenant.set("later")
        decimal.getcontext().prec = 9
        assert run(app, None) == ["maker", "0.33333"]
        assert run(app, "place") == ["maker", "0.33333"]
        assert run(app, None) == ["maker", "0.33333"]
        assert seen() == ["later", "0.333333333"]


def test_listeners_of_an_execution_see_its_context(tmp_path: Path) -> None:
    """What a job has set is there where its events are emitted."""
    heard = []

    def setting(step: durably.StepContext) -> None:
        tenant.set("job")
        step.run("s", tenant.set, "step")

    def listen(event: Any) -> None:
        heard.append((event.type, tenant.get()))

    with engine(tmp_path, setting) as app:
        app.on("run:start", listen)
        app.on("step:start", listen)
        app.on("run:fail", listen)
        execute(app, job="setting")
    assert heard == [("run:start", "maker"), ("step:start", "job"), ("run:fail", "step")]


@pytest.mark.parametrize("is_made_inside", [False, True])
def test_a_run_that_is_executed_inside_a_step_is_not_in_that_step(
    tmp_path: Path, is_made_inside: bool
) -> None:
    """Its log lines are attributed to its own steps alone, whatever engine executes it."""

    def inner(step: durably.StepContext) -> None:
        step.log.info("outside of steps")
        step.run("own", step.log.info, "inside")

    def work(app: durably.Durably) -> None:
        if not is_made_inside:
            execute(app, job="inner")
            return
        with durably.Durably(tmp_path / "other.db", jobs=[durably.Job("inner", inner)]) as other:
            other.on("log:write", lines.append)
            other.jobs["inner"].trigger_and_wait(timeout=GRACE_S)

    def outer(step: durably.StepContext) -> None:
        step.run("outer", work, app)
        step.log.info("after")

    with engine(tmp_path, outer, inner) as app:
        lines = record(app, "log:write")
        assert execute(app, job="outer").status == "completed"
    assert [(line.message, line.step_name) for line in lines] == [
        ("outside of steps", None),
        ("inside", "own"),
        ("after", None),
    ]
