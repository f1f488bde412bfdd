"""Jobs for a command line."""

from __future__ import annotations

import os
import time
from datetime import date
from pathlib import Path

import attrs

import durably


@attrs.define
class Import:
    path: str
    day: date | None = None
    count: int = 3
    tags: list[str] = attrs.field(factory=list)


@durably.job("nightly-import")
def nightly(step: durably.StepContext, payload: Import) -> dict[str, object]:
    for number in range(payload.count):
        step.run(f"batch-{number}", lambda: None)
    step.log.info("imported", rows=payload.count)
    if payload.path == "bad":
        step.run("last", divided)
    return {"path": payload.path, "day": str(payload.day), "tags": payload.tags}


def divided() -> float:
    return 1 / 0


@durably.job
def greets(step: durably.StepContext, name: str) -> str:
    return step.run("greet", lambda: f"hello {name}")


@durably.job
def waits(step: durably.StepContext, folder: str) -> int:
    """Say in a file that it waits, and wait for another file, in each of its steps."""
    for number in range(5):
        step.run(f"wait-{number}", wait, folder, number)
    return number


@durably.job
def sleeps(step: durably.StepContext) -> None:
    step.run("first", lambda: None)
    step.sleep(3600)


def wait(folder: str, number: int) -> None:
    Path(folder, f"begun-{number}").touch()
    while not (Path(folder, f"go-{number}").exists() or Path(folder, "go").exists()):
        time.sleep(0.005)


if os.environ.get("NIGHTLY_IS_UNGUARDED"):
    with durably.Durably(jobs=[nightly]) as app:
        app.run(nightly, Import("x"))
