"""``app.run`` of a run that another engine, or the pool of this one, is executing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import in_thread, status
from engines import engine, take_over
from held import HeldJob
from runpages import BadPageError, Pages

import durably
from durably import Durably

HANG_S = 20


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Durably]:
    with engine(tmp_path) as app:
        yield app


@pytest.fixture
def elsewhere(tmp_path: Path, app: Durably, held: HeldJob) -> Iterator[Durably]:
    """Another engine, which is inside the second step of the run with the key ``k``."""
    with engine(tmp_path, held.job, stale_threshold=1000, heartbeat_interval=0.02) as other:
        call, _ = in_thread(lambda: other.run(held.job, 7, key="k"))
        held.inside()
        yield other
        held.let_all_go()
        call.result()


def test_it_waits_for_the_end(app: Durably, held: HeldJob, elsewhere: Durably) -> None:
    """It returns the run as completed, without executing anything."""
    call, _ = in_thread(lambda: app.run(held.job, 7, key="k"))
    held.let_all_go()
    run = call.result()
    assert (run.status, run.output) == ("completed", 7)
    assert run.disposition in ("continued", "idempotent")
    assert held.calls == ["first", "second", "third"]


def test_it_skips(app: Durably, held: HeldJob, elsewhere: Durably) -> None:
    """The run is returned as it is, at once."""
    run = app.run(held.job, 7, key="k", if_running="skip")
    assert (run.status, run.disposition) == ("running", "skipped")


def test_it_says_who_executes_the_run(app: Durably, held: HeldJob, elsewhere: Durably) -> None:
    """With the process, since when, and how far it is."""
    with pytest.raises(
        durably.ConflictError,
        match=r"^held k is running since \d\d:\d\d in process \d+ \(1 step completed\); if_",
    ):
        app.run(held.job, 7, key="k", if_running="error")


def test_a_wait_may_have_a_timeout(app: Durably, held: HeldJob, elsewhere: Durably) -> None:
    """The run continues."""
    with pytest.raises(durably.WaitTimeoutError, match="is running since"):
        app.run(held.job, 7, key="k", timeout=0.05)
    (run,) = app.get_runs()
    assert run.status == "running"


def test_a_wait_ends_if_the_engine_is_closed(
    app: Durably, held: HeldJob, elsewhere: Durably
) -> None:
    """Another thread closes it; the run continues."""
    call, _ = in_thread(lambda: app.run(held.job, 7, key="k"))
    while app._supervisor.local.owner is None:
        threading.Event().wait(0.001)
    app.close()
    assert isinstance(call.result(), durably.EngineClosedError)


def test_a_payload_cannot_change_while_the_run_is_executed(
    app: Durably, held: HeldJob, tmp_path: Path
) -> None:
    """What the job has read stays what it is."""
    inside, go = threading.Event(), threading.Event()

    @durably.job
    def takes(step: durably.StepContext, number: int) -> int:
        inside.set()
        assert go.wait(HANG_S)
        return number

    with engine(tmp_path) as other:
        call, _ = in_thread(lambda: other.run(takes, 1, key="k"))
        assert inside.wait(HANG_S)
        with pytest.raises(durably.ConflictError, match="gets no other payload meanwhile"):
            app.run(takes, 2, key="k", on_payload_change="extend")
        go.set()
        assert call.result().output == 1


def test_what_the_other_engine_gives_back_is_continued_here(app: Durably, tmp_path: Path) -> None:
    """One that was taken for hung, or was stopped: the wait becomes an execution."""
    inside, go = threading.Event(), threading.Event()
    here = threading.Event()

    def waits() -> str:
        inside.set()
        assert here.is_set() or go.wait(HANG_S)
        return "x"

    @durably.job
    def gated(step: durably.StepContext) -> int:
        step.run("one", str)
        step.run("two", waits)
        return step.attempt

    with engine(tmp_path, heartbeat_interval=1000, stale_threshold=2000) as other:
        first, _ = in_thread(lambda: other.run(gated, key="k"))
        assert inside.wait(HANG_S)
        here.set()
        call, _ = in_thread(lambda: app.run(gated, key="k"))
        take_over(other)
        run = call.result()
        assert (run.output, run.attempt) == (2, 2)
        go.set()
        assert first.result().id == run.id


def test_a_failure_elsewhere_is_raised(app: Durably, tmp_path: Path) -> None:
    """It is not tried again by the call that has waited for it."""
    inside, go = threading.Event(), threading.Event()
    calls = []

    @durably.job
    def fails(step: durably.StepContext) -> None:
        calls.append(1)
        inside.set()
        assert go.wait(HANG_S)
        raise BadPageError

    with engine(tmp_path) as other:
        first, _ = in_thread(lambda: other.run(fails, key="k"))
        assert inside.wait(HANG_S)
        second, _ = in_thread(lambda: app.run(fails, key="k"))
        while app._supervisor.local.owner is None:
            threading.Event().wait(0.001)
        go.set()
        assert isinstance(first.result(), durably.RunFailedError)
        assert isinstance(second.result(), durably.RunFailedError)
        # The second may have come late, and has continued the run then.
        assert len(calls) <= 2


def test_a_run_that_this_engines_pool_executes(app: Durably, held: HeldJob) -> None:
    """It is waited for like any other, and its exception is the live one."""
    app.register(held.job)
    app.start()
    app.trigger(held.job, 7, idempotency_key="k")
    held.inside()
    assert app.run(held.job, 7, key="k", if_running="skip").disposition == "skipped"
    call, _ = in_thread(lambda: app.run(held.job, 7, key="k"))
    held.let_all_go()
    assert call.result().output == 7


_WAITS = (
    "^pages k waits for held …...., which has its concurrency key and is running since .* in "
    r"process [0-9]+.*; if_running="
)


# -- concurrency keys ------------------------------------------------------------------------


def test_it_waits_for_a_run_with_its_concurrency_key(
    app: Durably, held: HeldJob, pages: Pages, tmp_path: Path
) -> None:
    """While that is executed; with another choice it says so at once, and is pending."""
    with engine(tmp_path) as other:
        first, _ = in_thread(lambda: other.run(held.job, concurrency_key="c"))
        held.inside()
        options: dict[str, Any] = {"concurrency_key": "c", "key": "k"}
        with pytest.raises(durably.ConflictError, match=_WAITS):
            app.run(pages.job, 2, if_running="error", **options)
        skipped = app.run(pages.job, 2, if_running="skip", **options)
        assert (skipped.status, skipped.disposition) == ("pending", "skipped")
        call, _ = in_thread(lambda: app.run(pages.job, 2, **options))
        assert pages.calls == []
        held.let_all_go()
        assert call.result().output == 1
        first.result()


def test_it_waits_for_no_pending_run_with_its_concurrency_key(app: Durably, pages: Pages) -> None:
    """Perhaps nothing executes that one: it was interrupted yesterday."""
    app.register(pages.job)
    pending = app.trigger(pages.job, 1, concurrency_key="c", idempotency_key="yesterday")
    run = app.run(pages.job, 2, concurrency_key="c", key="today", timeout=HANG_S)
    assert run.status == "completed"
    assert status(app, pending) == "pending"


@durably.job
def brief(step: durably.StepContext) -> None:
    """A run that ends at once."""


@pytest.mark.parametrize("call", ["run", "process_one", "run_until_idle"])
def test_many_calls_within_a_moment_take_no_run_from_the_living(
    tmp_path: Path, held: HeldJob, call: str
) -> None:
    """Each such call stores a heartbeat of its own, which is no time that has passed for others."""
    path = tmp_path / "runs.db"
    with (
        Durably(path, jobs=[held.job]) as other,
        durably.session("open", db=path) as step,
    ):
        run = other.trigger(held.job)
        held.inside()
        app = Durably(path, jobs=[brief])
        for _ in range(20):
            if call == "run":
                app.run(brief)
            else:
                app.trigger(brief)
                getattr(app, call)()
        app.close()
        found = status(other, run), step.get_run().status
        held.let_all_go()
        assert found == ("running", "running")
        assert step.run("goes on", int) == 0
        assert other.wait(run, timeout=HANG_S).attempt == 1
