"""Report what a night has sold: a batch at a service, an approval, and a run for each region.

The service takes minutes and is down now and then, people take hours, and neither costs a thread:
one worker is enough.
Kill it at any moment and start it again: it goes on where it was, and does nothing twice that is
stored. Approve it with: durably answer NIGHT approve true
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from attrs import define

import durably


@define
class Night:
    """The payload: which night, and the folder in which the service takes and leaves its files."""

    name: str
    service: str
    every: float


@define
class Region:
    """The payload of a region's run."""

    night: Night
    name: str
    sold: int


# The service is down now and then: a run that finds it so is tried again later.
PATIENT = durably.Retry(attempts=100, wait=0.05, backoff=1.5, max_wait=2, on=ConnectionError)


def call(service: str) -> Path:
    """Return the folder of the service, if that is up."""
    folder = Path(service)
    if (folder / "down").exists():
        raise ConnectionError("the service is down")
    return folder


def write(path: Path, text: str) -> None:
    """Write a file as a whole or not at all; writing it again is the same."""
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def submit(night: Night) -> str:
    """Ask for the numbers of a night. The service knows a batch by its name."""
    write(call(night.service) / f"{night.name}.batch", night.name)
    return night.name


def numbers(night: Night, batch: str) -> dict[str, int] | None:
    """Return what each region has sold, ``None`` while the service is working on it."""
    answer = call(night.service) / f"{batch}.numbers"
    if not answer.exists():
        return None
    found: dict[str, int] = json.loads(answer.read_text(encoding="utf-8"))
    return found


def publish(night: Night, name: str, text: str) -> str:
    """Send a report to the service, which keeps one by each name."""
    write(call(night.service) / f"{night.name} {name}.report", text)
    return text


@durably.job("region", retry=PATIENT)
def region(step: durably.StepContext, payload: Region) -> int:
    """Publish what one region has sold."""
    text = f"{payload.name} has sold {payload.sold}"
    step.run("publish", publish, payload.night, payload.name, text)
    return payload.sold


@durably.job("nightly-report", retry=PATIENT)
def nightly_report(step: durably.StepContext, night: Night) -> str:
    """Get the numbers, have them approved, and publish them by region and in total."""
    batch = step.run("submit", submit, night)

    def check() -> dict[str, int] | None:
        try:
            return numbers(night, batch)
        except ConnectionError:
            return None  # it is asked again later

    sold = step.poll("numbers", check, every=night.every, timeout=8 * 3600, returns=dict[str, int])
    question = f"{sum(sold.values())} sold in {night.name}. Publish that?"
    if not step.ask("approve", question=question, returns=bool, timeout=24 * 3600, default=False):
        return "not approved"
    runs = [
        step.trigger(f"region {name}", region, Region(night, name, count), concurrency_key="send")
        for name, count in sorted(sold.items())
    ]
    total = sum(step.wait_for(runs))
    return step.run("total", publish, night, "total", f"{total} sold")


def main() -> int:
    """Bring the report of a night to its end; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("night")
    parser.add_argument("--service", type=Path, required=True, help="the folder of the service")
    parser.add_argument("--db", type=Path, default=Path("reports.db"))
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two checks")
    options = parser.parse_args()
    night = Night(options.night, str(options.service), options.every)
    with durably.Durably(options.db, jobs=[nightly_report, region], max_workers=1) as app:
        run = app.trigger(nightly_report, night, idempotency_key=night.name)
        print(app.wait(run).output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
