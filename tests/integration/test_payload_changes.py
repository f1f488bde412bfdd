"""``app.run`` with the key of a run that was started with another payload."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pandas as pd
import pytest
from calls import status
from engines import engine
from runpages import Pages

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


@attrs.define
class Crawl:
    pages: int
    site: str = "example.org"
    options: dict[str, Any] = attrs.field(factory=dict)


@attrs.define
class SmallCrawl:
    pages: int


@pytest.fixture
def crawl() -> durably.Job[Crawl, int]:
    @durably.job
    def crawl(step: durably.StepContext, payload: Crawl) -> int:
        for page in range(payload.pages):
            step.run(f"page-{page}", int)
        return payload.pages

    return crawl


def test_another_payload_is_warned_of(app: Durably, crawl: durably.Job[Crawl, int]) -> None:
    """The stored result is returned; the paths are named, no value, and the line of the caller."""
    app.run(crawl, Crawl(1, options={"token": "hidden", "list": [1, 2]}), key="k")
    with pytest.warns(durably.PayloadChangedWarning) as caught:
        run = app.run(crawl, Crawl(2, "secret", {"list": [1, 3, 4], "odd name": 1}), key="k")
    assert (run.output, run.disposition) == (1, "idempotent")
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith("'k' was started with another payload ($.pages, $.site, ")
    for path in ("$.options.token", "$.options.list[1]", "and 1 more"):
        assert path in text
    assert "stored result is returned" in text
    assert "secret" not in text
    assert "hidden" not in text
    assert warning.filename == __file__


def test_values_that_json_does_not_know_are_compared(app: Durably) -> None:
    """By what is stored of them: an array and a frame have no ``==`` that is a bool."""

    @durably.job
    def fit(step: durably.StepContext, payload: Any) -> None:
        pass

    def payload(number: int, text: str = "") -> Any:
        held = {"array": np.arange(number), "frame": pd.DataFrame({"a": [number]}), "text": text}
        return held | {"same": (1, {2}), "keys": {1: number}}

    app.run(fit, payload(1), key="k")
    assert app.run(fit, payload(1), key="k").disposition == "idempotent"
    with pytest.warns(durably.PayloadChangedWarning, match=r"\(\$\.array, \$\.frame, \$\.keys\)"):
        app.run(fit, payload(2), key="k")
    with pytest.raises(durably.ConflictError, match=r"\$\.array"):
        app.run(fit, payload(2), key="k", on_payload_change="refuse")
    app.run(fit, payload(1, "x" * (4 * 2**20 + 1)), key="large")
    with pytest.warns(durably.PayloadChangedWarning, match=r"\(\$\.text\)"):
        app.run(fit, payload(1, "y"), key="large")


def test_a_run_that_has_not_completed_keeps_its_payload(app: Durably, pages: Pages) -> None:
    """It is continued as it was begun."""
    pages.bad = 1
    with pytest.raises(durably.RunFailedError):
        app.run(pages.job, 2, key="k")
    pages.bad = None
    with pytest.warns(durably.PayloadChangedWarning, match="goes on with the payload it has"):
        run = app.run(pages.job, 5, key="k")
    assert (run.output, run.payload) == (1, 2)


def test_a_warning_that_is_an_error_changes_nothing(app: Durably, pages: Pages) -> None:
    """The run is as it was."""
    app.register(pages.job)
    app.trigger(pages.job, 1, idempotency_key="k")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(durably.PayloadChangedWarning):
            app.run(pages.job, 2, key="k")
    assert status(app, app.get_runs()[0]) == "pending"


@pytest.mark.parametrize("is_completed", [True, False])
def test_another_payload_may_be_refused(app: Durably, pages: Pages, is_completed: bool) -> None:
    """The run is as it was, and the message names the paths."""
    app.register(pages.job)
    run = app.trigger(pages.job, 1, idempotency_key="k")
    if is_completed:
        app.run(pages.job, 1, key="k")
    with pytest.raises(durably.ConflictError, match=r"pages k .* another payload \(\$\)"):
        app.run(pages.job, 2, key="k", on_payload_change="refuse")
    assert status(app, run) == ("completed" if is_completed else "pending")


@pytest.mark.parametrize("state", ["completed", "failed", "pending"])
def test_a_run_is_extended(app: Durably, pages: Pages, state: str) -> None:
    """It continues with the new payload and its checkpoints."""
    if state == "pending":
        app.register(pages.job)
        app.trigger(pages.job, 2, idempotency_key="k")
    else:
        pages.bad = 1 if state == "failed" else None
        try:
            app.run(pages.job, 2, key="k")
        except durably.RunFailedError:
            pages.bad = None
    run = app.run(pages.job, 4, key="k", on_payload_change="extend")
    assert (run.output, run.payload, run.disposition) == (6, 4, "continued")
    expected = {"completed": [0, 1, 2, 3], "failed": [0, 1, 1, 2, 3], "pending": [0, 1, 2, 3]}
    assert pages.calls == expected[state]
    assert app.run(pages.job, 4, key="k", on_payload_change="extend").disposition == "idempotent"


def test_a_field_that_was_added_with_a_default_is_no_change(app: Durably) -> None:
    """The stored payload is compared as today's class reads it."""

    def crawl(step: durably.StepContext, payload: Any) -> int:
        return 1

    app.run(durably.Job("crawl", crawl, input=SmallCrawl), SmallCrawl(1), key="k")
    today = durably.Job("crawl", crawl, input=Crawl)
    run = app.run(today, Crawl(1), key="k", on_payload_change="refuse")
    assert run.disposition == "idempotent"
    app.run(durably.Job("crawl", crawl, input=SmallCrawl), SmallCrawl(1), key="l")
    with pytest.raises(durably.ConflictError, match=r"\(\$\.site\)"):
        app.run(today, Crawl(1, "x"), key="l", on_payload_change="refuse")


def test_a_waiting_run_that_is_extended_keeps_its_question(tmp_path: Path) -> None:
    """It goes on waiting for the same answer, and has the new payload when that comes."""

    def job(step: durably.StepContext, payload: dict[str, int]) -> list[Any]:
        return [payload["n"], step.ask("approve")]

    with engine(tmp_path, job) as app:
        handle = app.jobs["job"]
        run = handle.trigger({"n": 1}, idempotency_key="k")
        assert app.process_one()
        again = handle.trigger({"n": 2}, idempotency_key="k", on_payload_change="extend")
        assert (again.id, again.status, again.payload) == (run.id, "waiting", {"n": 2})
        (question,) = app.get_questions()
        assert (question.run_id, question.name) == (run.id, "approve")
        app.answer(run, "approve", "yes")
        assert app.process_one()
        assert app.get_run(run).output == [2, "yes"]
