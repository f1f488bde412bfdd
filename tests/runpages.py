"""A job with a step for each page, one of which may fail, for tests of what runs it."""

from __future__ import annotations

import threading

import durably


class BadPageError(Exception):
    """What the job raises."""


class Pages:
    """A job with a step for each page, one of which may fail."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.bad: int | None = None
        self.threads: set[str] = set()
        self.job = durably.job("pages")(self.run)

    def run(self, step: durably.StepContext, count: int) -> int:
        return sum(step.run(f"page-{n}", self.fetch, n) for n in range(count))

    def fetch(self, number: int) -> int:
        self.calls.append(number)
        self.threads.add(threading.current_thread().name)
        if number == self.bad:
            raise BadPageError(f"page {number}")
        return number
