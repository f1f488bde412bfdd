"""Opening engines and executing runs, for tests that watch what a run does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

import durably
from durably._platform.clock import Clock
from durably.store.outcome import OwnerHung
from durably.store.sqlite.sql import owners

GRACE_S = 20  # only guards against hanging

Job = Callable[..., Any] | durably.Job[Any, Any]


def job_of(function: Callable[..., Any]) -> durably.Job[Any, Any]:
    """Return a job of that function and its name."""
    return durably.Job(function.__name__, function)


@contextmanager
def engine(folder: Path, *functions: Job, **options: Any) -> Iterator[durably.Durably]:
    """An engine that was not started, on ``durably.db`` in *folder*, with a job per function."""
    jobs = [each if isinstance(each, durably.Job) else job_of(each) for each in functions]
    app = durably.Durably(
        folder / "durably.db",
        jobs=jobs,
        **{"synchronous": "normal"} | options,
    )
    try:
        yield app
    finally:
        app._shutdown.at_exit()


def execute(app: durably.Durably, payload: Any = None, *, job: str = "job", **options: Any) -> Any:
    """Trigger a run, execute it in this thread, and give it as it ended."""
    run = app.jobs[job].trigger(payload, **options)
    assert app.process_one()
    return app.get_run(run)


def again(app: durably.Durably, run: Any) -> Any:
    """Retry a run, execute it in this thread, and give it as it ended."""
    app.retry(run)
    assert app.process_one()
    return app.get_run(run)


def whole(run: Any) -> dict[str, Any]:
    """All fields of a run as it was read: runs themselves compare by their id alone."""
    return attrs.asdict(run, recurse=False, filter=lambda field, _: field.name != "disposition")


def record(app: durably.Durably, type_: str = "*") -> list[Any]:
    """The events from now on, in the order in which they were emitted."""
    events: list[Any] = []
    app.on(type_, events.append)
    return events


def types(events: list[Any]) -> list[str]:
    """The types of *events*, without those of progress and log lines."""
    return [event.type for event in events if event.type not in ("run:progress", "log:write")]


def take_over(app: durably.Durably) -> None:
    """Put back the running runs of *app*, as another engine's reaper does when it hangs."""
    owner = app._supervisor.local.owner
    assert owner is not None
    recovered: list[Any] = []
    while not recovered:  # a heartbeat may come in between
        beat = next(
            row.beat for row in app._store.database.read(owners.list_all) if row.owner == owner
        )
        recovered = app._store.requeue(OwnerHung(owner, beat), Clock().now_us())


def only(events: list[Any], type_: str) -> Any:
    """The one event of that type."""
    (event,) = [event for event in events if event.type == type_]
    return event
