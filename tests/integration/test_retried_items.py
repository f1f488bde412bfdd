"""retry(only=...): which failed items of a map are tried again, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clikit import printed, refused
from engines import record
from invariants import check

import durably
from durably.errors import ConflictError, ItemsFailedError, NotFoundError, ValidationError


class RateLimited(Exception):  # noqa: N818 - as in a library
    """Passes by itself."""


class Stopped(BaseException):
    """No exception of a program."""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """The database file, whose invariants hold at the end."""
    yield tmp_path / "durably.db"
    assert check(tmp_path / "durably.db") == []


class Items:
    """A job of a map whose items fail on request."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.executed: list[Any] = []
        self.failing: dict[Any, BaseException] = {
            1: RateLimited("later"),
            2: ValueError("bad row"),
            3: RateLimited("later"),
        }

    def job(self, step: durably.StepContext) -> list[int]:
        first = step.map("first", self.call, range(5), **self.options)
        return [*first, *step.map("second", self.call, ["x"])]

    def call(self, n: Any) -> int:
        self.executed.append(n)
        if n in self.failing:
            raise self.failing[n]
        return 0

    def take(self) -> list[Any]:
        executed, self.executed = sorted(self.executed, key=str), []
        return executed


def engine(path: Path, items: Items) -> durably.Durably:
    jobs = [durably.Job("job", items.job)]
    return durably.Durably(path, jobs=jobs, raise_failed=False, replace=False)


@pytest.mark.parametrize(
    "options", [{}, {"key": str}, {"max_workers": 3}, {"key": str, "max_workers": 2}]
)
@pytest.mark.parametrize("only", ["RateLimited", f"{__name__}.RateLimited", "a function"])
def test_only_the_items_that_are_meant_are_tried_again(
    path: Path, only: Any, options: dict[str, Any]
) -> None:
    """The others count as failed, with the error that they have; a later retry tries them too."""
    items = Items(**options)
    if only == "a function":
        only = lambda item: item.index % 2  # noqa: E731 - one value among others
    with engine(path, items) as app:
        app.stop()
        run = app.trigger("job")
        app.run_until_idle()
        assert items.take() == [0, 1, 2, 3, 4]
        before = {each.key: each for each in run.items("first")}
        items.failing.pop(3)
        events = record(app)

        again = app.retry(run, only=only)

        assert (again.status, [each.type for each in events]) == ("pending", ["run:retry"])
        app.run_until_idle()
        assert items.take() == [1, 3]
        failed = run.refresh()
        assert failed.status == "failed"
        for said in ("2 of 5 items failed:", "1 x RateLimited: later", "1 x ValueError: bad row"):
            assert said in str(failed.error)
        records = {each.index: each for each in failed.items("first")}
        assert [each.attempts for each in records.values()] == [1, 2, 1, 2, 1]
        assert records[2] == [*before.values()][2]
        assert [each.item_key for each in events if each.type == "item:fail"] == [
            records[1].key,
        ]
        [of_map] = failed.steps
        assert (of_map.items.done, of_map.items.failed) == (3, 2)
        items.failing.clear()
        app.retry(run)
        app.run_until_idle()
        assert items.take() == [1, 2, "x"]
        assert run.refresh().status == "completed"


def test_the_choice_holds_until_the_next_retry(path: Path) -> None:
    """Another process finds it; another choice replaces it, and so does a run() that retries."""
    items = Items()
    with engine(path, items) as app:
        app.stop()
        with pytest.raises(durably.RunFailedError):
            app.run("job", key="k")
        [run] = app.runs()
        items.take()
        run.retry(only="ValueError")
        app.close()
    with engine(path, items) as app:
        app.stop()
        with pytest.raises(durably.RunFailedError):
            app.run("job", key="k")
        assert items.take() == [2]
        [run] = app.runs()
        run.retry(only=lambda item: item.key == 1)
        with pytest.raises(durably.RunFailedError):
            app.run("job", key="k")
        assert items.take() == [1]
        with pytest.raises(durably.RunFailedError):
            app.run("job", key="k")  # tries all of them again, as it always does
        assert items.take() == [1, 2, 3]
        run.retry(only="ValueError")
        # What was set, forgotten or redone is tried.
        app.set_item(run, "first", 1, 0)
        app.redo(run, only="first[3]")
        items.failing.clear()
        app.run("job", key="k")
        assert items.take() == [2, 3, "x"]


def test_items_that_are_not_tried_stop_no_map(path: Path) -> None:
    """They do not count for max_failures, which stops a map for those that are tried."""
    items = Items(max_failures=0)
    with engine(path, items) as app:
        app.stop()
        run = app.trigger("job")
        app.run_until_idle()
        assert items.take() == [0, 1]
        items.failing.pop(2)
        items.options = {}
        app.retry(run)
        app.run_until_idle()
        assert items.take() == [1, 2, 3, 4]
        items.options = {"max_failures": 0}
        items.failing.pop(3)
        app.retry(run, only=lambda item: item.key == 3)
        app.run_until_idle()
        assert items.take() == [3]
        assert "1 of 5 items failed" in str(run.refresh().error)


def test_what_ends_a_program_does_not_end_it_once_more(path: Path) -> None:
    """An item that is held for such an exception counts as any other."""
    items = Items()
    items.failing = {1: Stopped("now"), 2: ValueError("x")}
    with engine(path, items) as app:
        app.stop()
        run = app.trigger("job")
        app.run_until_idle()
        while run.refresh().status == "failed" and items.failing.pop(1, None):
            app.retry(run)
            app.run_until_idle()
        assert {each.status for each in run.items("first", status="failed")} == {"failed"}


@pytest.mark.parametrize(
    ("only", "error", "message"),
    [
        ("KeyError", NotFoundError, r"they failed with 2 . \S+RateLimited, 1 . ValueError"),
        ("Limited", NotFoundError, "none of the failed items"),
        (lambda _: False, NotFoundError, "none of the failed items"),
        (3, ValidationError, "only must be the name of an exception's type"),
    ],
)
def test_a_choice_of_nothing_is_rejected(
    path: Path, only: Any, error: type[Exception], message: str
) -> None:
    """The run stays as it is."""
    items = Items()
    with engine(path, items) as app:
        app.stop()
        run = app.trigger("job")
        app.run_until_idle()
        with pytest.raises(error, match=message):
            app.retry(run, only=only)
        assert run.refresh().status == "failed"
        items.failing.clear()
        app.retry(run)
        with pytest.raises(ConflictError, match="pending and cannot be retried"):
            app.retry(run, only="ValueError")
        app.run_until_idle()
        with pytest.raises(ConflictError, match="completed and cannot be retried"):
            app.retry(run, only="ValueError")


def test_a_run_without_a_map_has_no_items(path: Path) -> None:
    """Nothing is meant."""

    def job(step: durably.StepContext) -> None:
        step.run("a", int, "x")

    with durably.Durably(path, jobs=[durably.Job("job", job)], raise_failed=False) as app:
        app.stop()
        run = app.trigger("job")
        app.run_until_idle()
        with pytest.raises(NotFoundError, match="it has none"):
            app.retry(run, only="ValueError")


def test_a_run_that_was_executed_meanwhile_is_not_retried(path: Path) -> None:
    """The choice was made from what its items were before."""
    items = Items()
    with engine(path, items) as app:
        app.stop()
        run = app.trigger("job")
        app.run_until_idle()

        def meanwhile(item: durably.ItemRecord) -> bool:
            if item.index == 1:
                app.retry(run)
                app.run_until_idle()
            return True

        with pytest.raises(ConflictError, match="was executed meanwhile"):
            app.retry(run, only=meanwhile)
        assert run.refresh().status == "failed"


def test_the_command_line_takes_the_name_of_a_type(path: Path) -> None:
    """Of one run, or of several."""
    items = Items()
    with engine(path, items) as app:
        app.stop()
        with pytest.raises(durably.RunFailedError):
            app.run("job", key="k")
        items.take()
        assert "they failed with 2" in refused(path, "retry", "k", "--only", "KeyError")
        assert printed(path, "retry", "k", "--only", "RateLimited").startswith("pending again")
        app.run_until_idle()
        assert items.take() == [1, 3]


def test_the_error_of_a_map_has_what_was_not_tried(path: Path) -> None:
    """As an exception that is named like the one that was raised."""
    items = Items()
    caught: list[ItemsFailedError] = []

    def job(step: durably.StepContext) -> None:
        try:
            step.map("first", items.call, range(5))
        except ItemsFailedError as exc:
            caught.append(exc)
            raise

    with durably.Durably(path, jobs=[durably.Job("job", job)], raise_failed=False) as app:
        app.stop()
        run = app.trigger("job")
        app.run_until_idle()
        app.retry(run, only="ValueError")
        app.run_until_idle()
        kinds = [{type(each).__name__: str(each) for each in group.exceptions} for group in caught]
        assert kinds == [{"RateLimited": "later", "ValueError": "bad row"}] * 2
        assert isinstance(caught[1].exceptions[0], RateLimited)
