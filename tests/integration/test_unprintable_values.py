"""What cannot even be printed is rejected like any other bad value, by its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import engine, execute

import durably
from durably import Durably, Job, Retry


class Unprintable:
    """Such as a record of an ORM whose session is closed."""

    def __repr__(self) -> str:
        raise RuntimeError("no session")


VALUES = [Unprintable(), 10**5000]

Call = Callable[[Durably, Any], object]

CALLS: dict[str, Call] = {
    "a job's name": lambda _, value: Job(value, lambda step: None),
    "needs a function": lambda _, value: Job("x", value),
    "not a job": lambda app, value: app.register(value),
    "jobs contains": lambda _, value: Durably("unused.db", jobs=[value]),
    "path": lambda _, value: Durably(value),
    "synchronous": lambda _, value: Durably("unused.db", synchronous=value),
    "preserve_steps": lambda _, value: Durably("unused.db", preserve_steps=value),
    "heartbeat_interval": lambda _, value: Durably("unused.db", heartbeat_interval=value),
    "max_workers": lambda _, value: Durably("unused.db", max_workers=value),
    "retain_runs": lambda _, value: Durably("unused.db", retain_runs=value),
    "timeout": lambda app, value: app.stop(timeout=value),
    "idempotency_key": lambda app, value: app.jobs["job"].trigger(idempotency_key=value),
    "labels": lambda app, value: app.jobs["job"].trigger(labels=value),
    "label 'a'": lambda app, value: app.jobs["job"].trigger(labels={"a": value}),
    "label key": lambda app, value: app.jobs["job"].trigger(labels={value: "a"}),
    "on_progress": lambda app, value: app.jobs["job"].trigger_and_wait(on_progress=value),
    "items of a batch": lambda app, value: app.jobs["job"].batch_trigger(value),
    "a run must be": lambda app, value: app.get_run(value),
    "status": lambda app, value: app.get_runs(status=[value]),
    "job_name": lambda app, value: app.get_runs(job_name=[value]),
    "limit": lambda app, value: app.get_runs(limit=value),
    "older_than": lambda app, value: app.purge_runs(older_than=value),
    "limit must": lambda app, value: app.purge_runs(older_than=1, limit=value),
    "event type": lambda app, value: app.on(value, print),
    "a listener": lambda app, value: app.on("run:fail", value),
    "an error handler": lambda app, value: app.on_error(value),
    "a plugin": lambda app, value: app.use(value),
    "Retry.on": lambda _, value: Retry(on=value),
    "Retry.jitter": lambda _, value: Retry(jitter=value),
}


@pytest.mark.parametrize("value", VALUES, ids=["object", "int"])
@pytest.mark.parametrize("place", CALLS)
def test_it_is_rejected_by_its_place(tmp_path: Path, place: str, value: Any) -> None:
    """A ValidationError names the place, whatever the value's ``repr`` does; nothing is stored."""

    def job(step: durably.StepContext) -> None:
        """Is never executed."""

    with engine(tmp_path, job) as app:
        with pytest.raises(durably.ValidationError, match=place):
            CALLS[place](app, value)
        assert app.count_runs() == 0


def test_a_bound_too_small_to_print_is_rejected(tmp_path: Path) -> None:
    """Also where an int is what is asked for."""
    with engine(tmp_path) as app, pytest.raises(durably.ValidationError, match="max_runs"):
        app.run_until_idle(max_runs=-(10**5000))


@pytest.mark.parametrize("value", VALUES, ids=["object", "int"])
def test_a_job_is_named_in_the_same_way(tmp_path: Path, value: Any) -> None:
    """It is so for names, functions, options, durations and messages inside of a job."""
    refusals: list[str] = []

    def job(step: Any) -> None:
        for call in (
            lambda: step.run(value, int),
            lambda: step.run("step", value),
            lambda: step.options(retry=value),
            lambda: step.sleep(value),
            lambda: step.progress(1, 1, value),
        ):
            with pytest.raises(durably.ValidationError) as caught:
                call()
            refusals.append(str(caught.value))

    with engine(tmp_path, job) as app:
        assert execute(app).status == "completed"
    names = (
        "a step's name",
        "step.run('step', ...) needs a function",
        "retry",
        "step.sleep",
        "step.progress: message",
    )
    assert len(refusals) == len(names)
    for refusal, name in zip(refusals, names, strict=True):
        assert name in refusal
