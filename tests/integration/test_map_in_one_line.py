"""``durably.map``: a loop in one line, which goes on where it was."""

from __future__ import annotations

import functools
import gc
import os
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from calls import HANG_S, in_thread
from invariants import check

import durably
from durably.entry import open_sessions


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "loops.db"


called: list[int] = []
bad: set[int] = set()


@pytest.fixture(autouse=True)
def _forget() -> None:
    called.clear()
    bad.clear()


def square(number: int) -> int:
    called.append(number)
    if number in bad:
        raise ValueError(f"cannot square {number}")
    return number * number


def taken() -> list[int]:
    """The items that were executed since the last call, sorted."""
    found = sorted(called)
    called.clear()
    return found


def only_run(db: Path) -> durably.Run[Any, Any]:
    with durably.Durably(db, create=False) as app:
        (run,) = app.get_runs()
    return run


class Labels:
    """Has functions and is one."""

    def label(self, number: int) -> str:
        return f"<{number}>"

    @classmethod
    def of_class(cls, number: int) -> str:
        return f"{cls.__name__} {number}"

    def __call__(self, number: int) -> str:
        return f"({number})"


def test_it_executes_what_is_missing_and_returns_the_rest_from_checkpoints(db: Path) -> None:
    """Once all is done it returns what is stored; items that are new are executed."""
    first = durably.map(square, [1, 2, 3], db=db, key=str, max_workers=3)
    again = durably.map(square, [1, 2, 3], db=db, key=str)
    more = durably.map(square, [3, 5, 1], db=db, key=str, max_workers=2)

    assert (list(first), first.keys, first.reused) == ([1, 4, 9], ["1", "2", "3"], 0)
    assert (list(again), again.reused) == ([1, 4, 9], 3)
    assert (more.by_key, more.reused) == ({"3": 9, "5": 25, "1": 1}, 2)
    assert taken() == [1, 2, 3, 5]
    run = only_run(db)
    assert (run.job_name, run.idempotency_key) == ("square", "square")
    assert (run.kind, run.status) == ("session", "completed")
    assert check(db) == []


def test_what_failed_is_tried_again_by_the_next_call_and_nothing_else(db: Path) -> None:
    """The error fails the session; all other items are executed and stored before."""
    bad.update({2, 5})
    with pytest.raises(durably.ItemsFailedError, match="2 of 7 items failed: 2 x ValueError"):
        durably.map(square, range(7), db=db, max_workers=2)
    assert taken() == list(range(7))
    assert only_run(db).status == "failed"
    bad.remove(2)
    with pytest.raises(durably.ItemsFailedError, match="1 of 7 items failed"):
        durably.map(square, range(7), db=db)
    assert taken() == [2, 5]
    bad.clear()

    done = durably.map(square, range(7), db=db)

    assert (list(done), done.reused) == ([n * n for n in range(7)], 6)
    assert taken() == [5]
    assert only_run(db).status == "completed"


def test_failures_may_be_returned(db: Path) -> None:
    """Then the session completes, and the next call tries them again."""
    bad.add(1)
    done = durably.map(square, range(3), db=db, on_failed="return")
    assert [record.key for record in done.failed] == [1]
    bad.clear()
    assert list(durably.map(square, range(3), db=db, on_failed="return")) == [0, 1, 4]
    assert taken() == [0, 1, 1, 2]


def test_an_iterable_that_raises_keeps_what_is_done(db: Path) -> None:
    """Its exception is raised, and the next call goes on."""

    def lines() -> Any:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        durably.map(square, lines(), db=db)
    assert taken() == [1, 2]
    assert durably.map(square, [1, 2, 3], db=db).reused == 2
    assert taken() == [3]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_stops_the_program_leaves_the_session_pending(
    db: Path, stop: type[BaseException]
) -> None:
    """As the end of the process does; the next call goes on."""

    def items() -> Any:
        yield 1
        raise stop

    with pytest.raises(stop):
        durably.map(square, items(), db=db)
    assert only_run(db).status == "pending"
    assert list(durably.map(square, [1, 2], db=db)) == [1, 4]
    assert taken() == [1, 2]


# -- its name ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (square, "square"),
        (Labels().label, "Labels.label"),
        (Labels.of_class, "Labels.of_class"),
        (functools.lru_cache(square), "square"),
        (str, "str"),
        (len, "len"),
    ],
)
def test_its_name_is_that_of_the_function_without_the_module(
    db: Path, fn: Callable[[Any], Any], name: str
) -> None:
    """Of a bound method it is that of the class and the function."""
    durably.map(fn, [] if fn is len else [1], db=db)
    assert only_run(db).job_name == name


def test_a_function_inside_another_one_is_named_with_it(db: Path) -> None:
    """Two functions of one name in different places are two loops."""

    def local(number: int) -> int:
        return number

    durably.map(local, [1], db=db)
    assert only_run(db).job_name.endswith("is_named_with_it.<locals>.local")


@pytest.mark.parametrize(
    ("fn", "what"),
    [
        (lambda number: number, "a lambda"),
        (functools.partial(square), "a partial"),
        (functools.partial(Labels().label), "a partial"),
        (Labels(), "a Labels"),
    ],
)
def test_what_has_no_name_of_its_own_needs_one(
    db: Path, fn: Callable[[int], Any], what: str
) -> None:
    """Else another lambda, or a partial with other arguments, would be given its results."""
    with pytest.raises(durably.ValidationError, match=f"{what} has no name .*pass name="):
        durably.map(fn, [1, 2], db=db)
    assert not db.exists()
    assert len(durably.map(fn, [1, 2], db=db, name="mine")) == 2
    assert only_run(db).job_name == "mine"


def test_two_names_are_two_loops(db: Path) -> None:
    """Each has results of its own."""
    assert list(durably.map(square, [1], db=db, name="a")) == [1]
    assert list(durably.map(Labels().label, [1], db=db, name="b")) == ["<1>"]
    assert durably.map(square, [1], db=db, name="a").reused == 1


# -- its options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "complaint"),
    [
        ((5, [1]), {}, "fn must be a function"),
        ((square, 5), {}, "items must be an iterable"),
        ((square, "abc"), {}, "items must not be str"),
        ((square, {1, 2}), {}, "another order in each process"),
        ((square, [1]), {"name": ""}, "name"),
        ((square, [1]), {"name": 5}, "name"),
        ((square, [1]), {"key": 5}, "key must be a function"),
        ((square, [1]), {"max_workers": 0}, "max_workers must be an int of at least 1"),
        ((square, [1]), {"per_second": 0}, "per_second must be a number greater than zero"),
        ((square, [1]), {"on_failed": "ignore"}, 'must be "raise" or "return"'),
        ((square, [1]), {"timeout": 0}, "timeout must be greater than zero"),
        ((square, [1]), {"retry": 3}, "retry must be a Retry"),
        ((square, [1]), {"fresh": 1}, "fresh must be True or False"),
        ((square, [1]), {"labels": {"a": 5}}, "label 'a' must be a str"),
        ((square, [1]), {"poll_interval": "often"}, "poll_interval"),
        ((square, [1]), {"converter": 5}, "converter"),
    ],
)
def test_what_is_wrong_is_said_before_a_file_is_made(
    db: Path, arguments: tuple[Any, Any], options: dict[str, Any], complaint: str
) -> None:
    """A ValidationError that names the argument; nothing is executed and nothing is stored."""
    with pytest.raises(durably.ValidationError, match=complaint):
        durably.map(*arguments, db=db, **options)
    assert not db.exists()
    assert taken() == []


def test_there_is_no_option_of_another_name(db: Path) -> None:
    """A misspelt one is a TypeError, as for any function, and no file is made."""
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'workers'"):
        durably.map(square, [1], db=db, workers=3)  # type: ignore[call-overload]
    assert not db.exists()


def test_a_key_that_comes_twice_is_said_before_an_item_is_executed(db: Path) -> None:
    """Corrected, the call goes on with the same session."""
    with pytest.raises(durably.ValidationError, match="positions 0 and 1 have the same key 'x'"):
        durably.map(square, [1, 2], db=db, key=lambda _: "x")
    assert taken() == []
    assert len(durably.map(square, [1, 2], db=db, key=str)) == 2


def test_options_of_the_session_and_of_the_engine(db: Path) -> None:
    """Labels are its run's, and ``fresh`` executes all items again, in a run of its own."""
    durably.map(square, [1, 2], db=db, labels={"a": "b"}, synchronous="normal")
    assert only_run(db).labels == {"a": "b"}
    assert durably.map(square, [1, 2], db=db, fresh=True, show=False).reused == 0
    assert taken() == [1, 1, 2, 2]


def test_the_file_may_be_that_of_the_environment(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found as for an engine without a path."""
    monkeypatch.setenv("DURABLY_DB", str(db))
    durably.map(square, [1], db=None)
    assert db.exists()


def test_other_items_are_warned_of_in_the_callers_line(db: Path) -> None:
    """The warning names the line that calls, not one of durably."""
    durably.map(square, [1, 2], db=db)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        durably.map(square, [2, 1], db=db)
    (said,) = caught
    assert (said.category, said.filename) == (durably.ItemsChangedWarning, __file__)


def test_two_at_once_are_a_conflict(db: Path) -> None:
    """The second call names the first, and does nothing; another name is another loop."""
    inside, go_on = threading.Event(), threading.Event()

    def slow(number: int) -> int:
        inside.set()
        assert go_on.wait(HANG_S)
        return number

    first, _ = in_thread(lambda: durably.map(slow, [1], db=db, name="slow"))
    try:
        assert inside.wait(HANG_S)
        with pytest.raises(durably.ConflictError, match="'slow' is being executed by this"):
            durably.map(square, [1], db=db, name="slow")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(open_sessions, "open_here", {})  # as in another process
            elsewhere = rf"'slow' is running since .* in process {os.getpid()}; call it again"
            with pytest.raises(durably.ConflictError, match=elsewhere):
                durably.map(square, [1], db=db, name="slow")
        assert list(durably.map(square, [2], db=db)) == [4]
    finally:
        go_on.set()
    assert first.result(HANG_S) == [1]


# -- durably.imap --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_an_iterator_returns_records_and_finds_what_a_map_has_stored(
    db: Path, workers: int
) -> None:
    """As they end, or in the order of the items; a map finds what an iterator has stored."""
    durably.map(square, [1, 2], db=db, key=str)
    found = durably.imap(square, [3, 2, 1], db=db, key=str, ordered=True, max_workers=workers)
    assert [(item.key, item.output, item.status) for item in found] == [
        ("3", 9, "completed"),
        ("2", 4, "completed"),
        ("1", 1, "completed"),
    ]
    assert only_run(db).status == "completed"
    unordered = durably.imap(square, [4, 1], db=db, key=str, max_workers=workers)
    assert sorted(item.key for item in unordered) == ["1", "4"]
    assert durably.map(square, [1, 2, 3, 4], db=db, key=str).reused == 4
    assert taken() == [1, 2, 3, 4]
    assert check(db) == []


def test_an_iterator_raises_at_its_end(db: Path) -> None:
    """Failed items are among the records, and the next call tries them again."""
    bad.add(1)
    found = durably.imap(square, range(3), db=db, ordered=True)
    assert [next(found).status for _ in range(3)] == ["completed", "failed", "completed"]
    with pytest.raises(durably.ItemsFailedError, match="1 of 3 items failed"):
        next(found)
    assert only_run(db).status == "failed"
    bad.clear()
    assert [item.output for item in durably.imap(square, range(3), db=db, ordered=True)] == [
        0,
        1,
        4,
    ]
    assert taken() == [0, 1, 1, 2]


def test_a_prompt_takes_an_iterator_over_that_a_traceback_keeps(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does a session; and what the old one still does takes nothing from the new one."""
    monkeypatch.setattr(open_sessions, "is_interactive", lambda: True)
    with pytest.raises(ZeroDivisionError) as caught:
        sum(1 / 0 for _ in durably.imap(square, range(500), db=db))
    assert caught.value.__context__ is None
    new = durably.imap(square, range(500), db=db)
    assert next(new).output == 0
    (here,) = open_sessions.open_here.values()
    del caught
    gc.collect()
    assert tuple(open_sessions.open_here.values()) == (here,)
    assert len(list(new)) == 499


@pytest.mark.parametrize("way", ["closed", "left behind", "an exception", "Ctrl-C"])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_iterator_that_is_left_leaves_the_session_pending(
    db: Path, way: str, workers: int
) -> None:
    """What has ended is stored, and the next call goes on."""

    def loop() -> None:
        found = durably.imap(square, range(3000), db=db, max_workers=workers, max_uncommitted=4)
        for item in found:
            assert item.status == "completed"
            if way == "closed":
                found.close()
            elif way == "an exception":
                raise LookupError
            elif way == "Ctrl-C":
                raise KeyboardInterrupt
            else:
                break

    with suppress(LookupError, KeyboardInterrupt):
        loop()

    gc.collect()
    assert only_run(db).status == "pending"
    done = taken()
    assert 1 <= len(done) < 3000
    assert durably.map(square, range(3000), db=db).reused == len(done)
    assert taken() == [number for number in range(3000) if number not in done]


def test_an_iterator_opens_nothing_before_it_is_used(db: Path) -> None:
    """Wrong arguments are rejected by the call itself."""
    durably.imap(square, [1], db=db)
    for wrong in ({"max_workers": 0}, {"ordered": 1}, {"key": 5}, {"fn": lambda number: number}):
        with pytest.raises(durably.ValidationError, match=r"durably\.imap"):
            durably.imap(**{"fn": square, "items": [1], "db": db} | wrong)
    with pytest.raises(TypeError, match="unexpected keyword argument 'workers'"):
        durably.imap(square, [1], db=db, workers=1)  # type: ignore[call-arg]
    assert not db.exists()
