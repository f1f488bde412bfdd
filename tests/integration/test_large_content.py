"""What is large and hostile at once is shown in short, wherever it is: in tables, cards, pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clikit import objects, printed

import durably

pytestmark = pytest.mark.slow

LARGE = "<script>\x1b[2J\u202e\x00" + "x" * 4_000_000
# What a face may say of a few rows.
SHORT = 100_000
RUNS = 3


def fetch(number: int) -> str:
    if number % 2:
        raise ValueError(LARGE)
    return LARGE


@durably.job("large")
def large(step: durably.StepContext, payload: dict[str, list[str]]) -> str:
    step.log.info(LARGE, data=LARGE)
    step.progress(1, 2, LARGE)
    step.run("read", lambda: payload["texts"] * 2)
    step.map("pages", fetch, range(6), key=lambda number: f"page {number}", on_failed="return")
    if step.attempt == 1 and payload["fails"]:
        raise ValueError(LARGE)
    return LARGE


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[durably.Durably]:
    """An engine with runs that have failed and one that has completed."""
    path = tmp_path_factory.mktemp("large") / "x.db"
    app = durably.Durably(path, jobs=[large], persist_logs=True, raise_failed=False)
    for number in range(RUNS):
        payload = {"texts": [LARGE], "fails": ["yes"] * (number % 2)}
        app.trigger(large, payload, idempotency_key=f"key-{number}")
    app.run_until_idle(raise_failed=False)
    yield app
    app.close()


def path_of(app: durably.Durably) -> Path:
    return Path(app.to_dict()["path"])


@pytest.mark.parametrize(
    "args",
    [
        ["ls"],
        ["show", "key-0"],
        ["show", "key-1"],
        ["steps", "key-1"],
        ["items", "key-1"],
        ["items", "key-1", "--failed"],
        ["attempts", "key-1"],
        ["logs", "key-1"],
        ["export", "key-1"],
        ["du"],
    ],
    ids=" ".join,
)
def test_a_command_prints_the_ends_of_what_is_large(app: durably.Durably, args: list[str]) -> None:
    """Nothing that a terminal would act on, and no more than a person reads."""
    shown = printed(path_of(app), *args)
    assert 0 < len(shown) < SHORT
    assert not {"\x1b", "\u202e", "\x00"} & set(shown)
    assert "<script>" not in shown or args[0] != "export"


def test_a_program_gets_all_of_it(app: durably.Durably) -> None:
    """It gets JSON, one object a line, in ASCII."""
    runs = objects(path_of(app), "ls")
    assert [run["key"] for run in runs] == ["key-2", "key-1", "key-0"]
    assert all(run["payload"]["texts"] == [LARGE] for run in runs)
    assert runs[0]["output"] == LARGE


def test_a_notebook_shows_the_ends_of_it(app: durably.Durably) -> None:
    """Tables and cards show them, escaped."""
    runs = app.runs()
    run = runs[1]
    shown = [runs, run, run.steps, run.items("pages"), run.attempts, run.logs, app]
    shown += [run.steps[0], run.items("pages")[1], run.logs[0]]
    for each in shown:
        text = each._repr_html_()
        assert 0 < len(text) < SHORT
        assert "<script>" not in text
        assert len(repr(each)) < SHORT
    assert len(run.timeline()._repr_svg_()) < SHORT
