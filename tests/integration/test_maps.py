"""``step.map``: each item is a checkpoint, and only what failed or is missing is done again."""

from __future__ import annotations

import contextvars
import functools
import random
import sys
import threading
import time
import types
import warnings
from collections import Counter
from datetime import datetime, timedelta

import pytest
from attrs import define
from calls import HANG_S, in_thread, names_of_threads
from databases import open_database
from engines import GRACE_S, again, engine, execute, only, record, take_over
from engines import types as types_of
from invariants import check

import durably
from durably import ItemCounts, ItemsChangedWarning, ItemsFailedError, Retry
from durably.execution.pacing import Pace

WORKERS = pytest.mark.parametrize("workers", [1, 4])


class Calls:
    """A function that counts its calls, and fails for some items."""

    def __init__(self, *bad):
        self.bad = set(bad)
        self.items = []

    def __call__(self, item) -> str:
        self.items.append(item)
        if item in self.bad:
            raise ValueError(f"cannot parse {item}")
        return f"<{item}>"

    def taken(self):
        """The items since the last call of this, sorted."""
        items, self.items = self.items, []
        return sorted(items, key=None if all(isinstance(each, int) for each in items) else str)


class Mapped:
    """A job that maps a function over items, with options that can be changed."""

    def __init__(self, fn, items, **options):
        self.fn, self.items, self.options = fn, items, options
        self.result = None

    def job(self, step):
        self.result = step.map("label", self.fn, self.items, **self.options)
        return len(self.result)


@WORKERS
def test_results_come_in_the_order_of_the_items(tmp_path, workers):
    """Whichever ends first; with their keys, which are the positions."""
    first = threading.Event()

    def work(item):
        if workers > 1 and item == 0:
            assert first.wait(GRACE_S)
        if item == 3:
            first.set()
        return item * 2

    mapped = Mapped(work, range(20), max_workers=workers)
    with engine(tmp_path, mapped.job) as app:
        run = execute(app)
        (step,) = app.get_steps(run)
        items = app.get_items(run, "label")
    assert mapped.result == [2 * n for n in range(20)]
    assert isinstance(mapped.result, durably.MapResult)
    assert mapped.result.keys == list(range(20))
    assert mapped.result.by_key[7] == 14
    assert (mapped.result.failed, mapped.result.reused) == ([], 0)
    assert (step.name, step.index, step.status, step.output) == ("label", 0, "completed", None)
    assert step.items == ItemCounts(20, 0, 0, 20)
    assert run.completed_steps == 1
    assert [(each.key, each.index, each.output) for each in items] == [
        (n, n, 2 * n) for n in range(20)
    ]
    assert {(each.status, each.error, each.attempts) for each in items} == {("completed", None, 1)}
    assert all(each.started_at <= each.completed_at for each in items)
    assert not [name for name in names_of_threads() if "map" in name]


@WORKERS
def test_only_what_failed_is_executed_again(tmp_path, workers):
    """All items are tried; the error counts the failures by kind; a retry executes those alone."""
    calls = Calls("d7", "d3")
    documents = [f"d{n}" for n in range(30)]
    mapped = Mapped(calls, documents, key=str, max_workers=workers)
    with engine(tmp_path, mapped.job) as app:
        events = record(app)
        run = execute(app)
        assert calls.taken() == sorted(documents)
        assert run.status == "failed"
        assert run.error.type == "durably.ItemsFailedError"
        assert run.error.message.startswith("2 of 30 items failed: 2 x ValueError: cannot parse d")
        assert only(events, "run:fail").failed_step == "label"
        (step,) = app.get_steps(run)
        assert (step.status, step.items) == ("failed", ItemCounts(28, 2, 0, 30))
        failed = app.get_items(run, "label", status="failed")
        assert {each.key: each.error.message for each in failed} == {
            "d3": "cannot parse d3",
            "d7": "cannot parse d7",
        }
        assert len(app.get_items(run, "label", status="completed")) == 28
        calls.bad = {"d7"}
        run = again(app, run)
        assert calls.taken() == ["d3", "d7"]
        assert run.error.message.startswith("1 of 30 items failed: 1 x ValueError: cannot parse d7")
        assert app.get_items(run, "label", status="failed")[0].attempts == 2
        calls.bad = set()
        run = again(app, run)
        assert calls.taken() == ["d7"]
        assert run.status == "completed"
        (step,) = app.get_steps(run)
        assert (step.status, step.items, step.attempt) == (
            "completed",
            ItemCounts(30, 0, 29, 30),
            3,
        )
        assert [each.attempts for each in app.get_items(run, "label")].count(3) == 1
    assert mapped.result == [f"<d{n}>" for n in range(30)]
    assert mapped.result.keys == documents
    assert mapped.result.reused == 29


def test_error_holds_the_exceptions_with_their_keys(tmp_path):
    """It is a group of what the items raised, each with a note that names its item."""
    caught = []

    def work(item):
        raise (KeyError if item % 3 else ValueError)(item)

    def job(step):
        try:
            step.map("m", work, range(7), key=lambda n: f"k{n}")
        except* KeyError as group:
            caught.append(group)
        except* ValueError as group:
            caught.append(group)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.status == "completed"
        (step,) = app.get_steps(run)
    assert [type(group) for group in caught] == [ItemsFailedError] * 2
    assert str(caught[0]) == (
        "7 of 7 items failed: 4 x KeyError: 1 (k1, k2, k4, ...), 3 x ValueError: 0 (k0, k3, k6)"
    )
    notes = [each.__notes__ for group in caught for each in group.exceptions]
    assert ["item 'k5' of step 'm'"] in notes
    assert len(notes) == 7
    assert step.error.message == str(caught[0])


@WORKERS
def test_the_error_says_of_the_first_items_whatever_failed_first(tmp_path, workers):
    """Keys, message and exceptions come in the order of the items."""
    go = threading.Event()

    def work(item):
        if workers > 1 and item == 0:
            assert go.wait(GRACE_S)
        if item == 7:
            go.set()
        raise ValueError(f"no {item}")

    def job(step):
        with pytest.raises(ItemsFailedError) as caught:
            step.map("m", work, range(12), max_workers=workers)
        assert [str(each) for each in caught.value.exceptions] == [f"no {n}" for n in range(12)]
        return str(caught.value)

    with engine(tmp_path, job) as app:
        output = execute(app).output
    assert output == "12 of 12 items failed: 12 x ValueError: no 0 (0, 1, 2, ...)"


@WORKERS
def test_failed_items_are_returned_on_request(tmp_path, workers):
    """With on_failed="return" there is no error; the next execution tries them again."""
    calls = Calls(4, 9)
    mapped = Mapped(calls, range(12), on_failed="return", max_workers=workers)
    with engine(tmp_path, mapped.job, preserve_steps=True) as app:
        run = execute(app)
        assert run.status == "completed"
        (step,) = app.get_steps(run)
    assert (step.status, step.items) == ("completed", ItemCounts(10, 2, 0, 12))
    assert [(each.key, each.status, str(each.error)) for each in mapped.result.failed] == [
        (4, "failed", "ValueError: cannot parse 4"),
        (9, "failed", "ValueError: cannot parse 9"),
    ]
    assert mapped.result.keys == [n for n in range(12) if n not in (4, 9)]
    assert mapped.result == [f"<{n}>" for n in mapped.result.keys]
    assert mapped.result.by_key[11] == "<11>"


@WORKERS
@pytest.mark.parametrize(
    ("most", "least_tried", "most_tried"), [(0, 1, 1), (2, 3, 3), (0.5, 20, 20)]
)
def test_too_many_failures_end_the_map(tmp_path, workers, most, least_tried, most_tried):
    """No further item begins, those in progress end, and the error is raised in any case."""
    calls = Calls(*range(1000))
    mapped = Mapped(calls, range(1000), max_failures=most, max_workers=workers, on_failed="return")
    with engine(tmp_path, mapped.job) as app:
        run = execute(app)
        stored = app.get_items(run, "label")
    assert "max_failures" in run.error.message
    tried = calls.taken()
    assert least_tried <= len(tried) <= most_tried + workers - 1
    assert [each.key for each in stored] == tried


def test_failures_within_the_limit_are_no_reason_to_stop(tmp_path):
    """A fraction is checked from the 20th item on, and exactly the limit is allowed."""
    calls = Calls(*range(10))
    mapped = Mapped(calls, range(20), max_failures=0.5, on_failed="return")
    with engine(tmp_path, mapped.job) as app:
        assert execute(app).status == "completed"
        mapped.items, mapped.options["max_failures"] = range(30), 10
        calls.bad = set(range(10))
        assert execute(app).status == "completed"
    assert len(calls.items) == 50


class Int64:
    """Such as NumPy's."""

    def __index__(self) -> int:
        return 1


BAD = [
    ({"fn": 5}, "fn must be a function"),
    ({"items": 5}, "items must be an iterable"),
    ({"items": list}, "items must be an iterable"),
    ({"items": "abc"}, "items must not be str"),
    ({"items": b"abc"}, "items must not be bytes"),
    ({"items": {"a", "b"}}, "needs? key="),
    ({"key": 5}, "key must be a function"),
    ({"key": lambda _: None}, "must return a str or an int, not None"),
    ({"key": lambda _: 1.0}, "must return a str or an int"),
    ({"key": lambda _: True}, "must return a str or an int"),
    ({"key": lambda _: Int64()}, "not Int64, for the item at position 0; convert it with int"),
    ({"key": lambda n: n if n < 9 else 0}, "positions 0 and 9 have the same key 0"),
    ({"key": lambda n: "" if n == 8 else str(n)}, "position 8 must not be empty"),
    ({"key": lambda n: f"{n}\0"}, "NUL"),
    ({"key": lambda n: n + 2**63}, "more than 64 bits"),
    *(({"max_workers": bad}, "max_workers must be") for bad in (0, -1, True, 1.5, "2")),
    *(({"per_second": bad}, "per_second must be") for bad in (0, -1, "5", True, float("inf"))),
    *(({"max_failures": bad}, "max_failures must be") for bad in (-1, 1.0, 1.5, "1", True)),
    *(({"max_uncommitted": bad}, "max_uncommitted must be") for bad in (0, None, "1")),
    ({"on_failed": "ignore"}, "on_failed must be"),
    ({"retry": 3}, "retry must be a Retry"),
    ({"total": -1}, "total must be"),
    ({"timeout": -1}, "timeout"),
    ({"timeout": 0}, "timeout"),
    ({"returns": object()}, "returns"),
    ({"chunk": 5}, "leave chunk out"),
    ({"on_change": "again"}, "on_change must be"),
    ({"name": ""}, "name must not be empty"),
    ({"name": "a\nb"}, "control character"),
    ({"name": len}, "step.map needs the name"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_bad_input_is_rejected_before_anything_is_executed(tmp_path, change, said):
    """With an error that names the argument; and the map can be used after it."""
    calls = Calls()

    def job(step):
        arguments = {"name": "m", "fn": calls, "items": list(range(10))} | change
        positional = [arguments.pop(each) for each in ("name", "fn", "items")]
        with pytest.raises(durably.ValidationError, match=said):
            step.map(*positional, **arguments)
        assert calls.items == []
        return step.map("m", calls, [1])

    with engine(tmp_path, job) as app:
        assert execute(app).output == ["<1>"]


def test_a_second_use_of_a_key_ends_a_lazy_map(tmp_path):
    """It is found before the item is executed, also if the first one was stored long before."""
    calls = Calls()
    mapped = Mapped(calls, (n % 2000 for n in range(2002)), key=int)
    with engine(tmp_path, mapped.job) as app:
        run = execute(app)
        assert "positions 0 and 2000 have the same key 0" in run.error.message
        assert len(app.get_items(run, "label")) <= 2000
        mapped.items = (n for n in [5, 6, 3000, 7, 6])
        run = again(app, run)
        assert "positions 1 and 4 have the same key 6" in run.error.message
    assert calls.items.count(6) == 1


@WORKERS
def test_the_input_may_grow_and_change_its_order(tmp_path, workers):
    """With keys, what is stored is found wherever it is; what is not asked for stays."""
    calls = Calls()
    results = []

    def job(step):
        items = ["abcdef", "zfxeyab", "a", "qabcdefxyz"][step.attempt - 1]
        results.append(step.map("m", calls, list(items), key=str, max_workers=workers))
        if step.attempt < 4:
            raise ValueError

    with engine(tmp_path, job) as app:
        run = execute(app)
        executed = [calls.taken()]
        for _ in range(3):
            run = again(app, run)
            executed.append(calls.taken())
        assert run.status == "completed"
        assert len(app.get_items(run, "m")) == 10
        assert app.get_steps(run)[0].items == ItemCounts(10, 0, 9, 10)
    assert executed == [[*"abcdef"], [*"xyz"], [], ["q"]]
    assert ["".join(result.keys) for result in results] == ["abcdef", "zfxeyab", "a", "qabcdefxyz"]
    assert all(result == [f"<{key}>" for key in result.keys] for result in results)


def resumed_items(tmp_path, first, second, **options):
    """Execute a map over two inputs, one after the other; return its function and warnings."""
    tmp_path.mkdir(exist_ok=True)
    calls = Calls()

    def job(step):
        step.map("m", calls, first if step.attempt == 1 else second, **options)
        if step.attempt == 1:
            raise ValueError

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert len(calls.taken()) == len(first)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = again(app, run)
        assert run.status == "completed"
    return calls, [str(each.message) for each in caught if each.category is ItemsChangedWarning]


def test_other_items_at_known_positions_are_said(tmp_path):
    """Their results are used, and a warning says how many and what tells items apart."""
    before = [{"id": 1}, {"id": 2}, [3.5], "d", None]
    after = [{"id": 1}, {"id": 7}, [3.5], "e", None, "new"]
    calls, (said,) = resumed_items(tmp_path, [str(each) for each in before], [*map(str, after)])
    assert calls.taken() == ["new"]
    assert "other items than before are at 2 positions" in said
    assert "key=" in said


def test_items_that_are_the_same_are_not_said(tmp_path):
    """Nor those that are not JSON-like, those with keys, and any with on_change="ignore"."""

    class Plain:
        def __str__(self):
            return "p"

    assert resumed_items(tmp_path / "1", ["a", (2, 3)], ["a", [2, 3]])[1] == []
    assert resumed_items(tmp_path / "2", [Plain()], [Plain()])[1] == []
    assert resumed_items(tmp_path / "3", ["a", "b"], ["b", "a"], key=str)[1] == []
    assert resumed_items(tmp_path / "4", ["a"], ["b"], on_change="ignore")[1] == []


@pytest.mark.parametrize("workers", [1, 3])
def test_items_are_read_a_few_ahead(tmp_path, workers):
    """A generator stays one: no more than 2 * max_workers + 2 items are read and not executed."""
    ended = []
    most = []
    thread = threading.get_ident()

    def read():
        for n in range(200):
            assert threading.get_ident() == thread
            most.append(n + 1 - len(ended))
            yield n

    mapped = Mapped(lambda n: ended.append(n) or n, read(), max_workers=workers)
    with engine(tmp_path, mapped.job) as app:
        assert execute(app).output == 200
        (step,) = app.get_steps(app.get_runs()[0])
    assert max(most) <= 2 * workers + 2
    assert step.items == ItemCounts(200, 0, 0, None)


@WORKERS
def test_an_iterable_that_raises_ends_the_map(tmp_path, workers):
    """With its exception, after what is in flight; what is done is kept."""
    calls = Calls()
    is_fixed = []

    def read():
        yield from range(10)
        if not is_fixed:
            raise OSError("disk")
        yield 10

    def job(step):
        return len(step.map("m", calls, read(), max_workers=workers))

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert str(run.error) == "OSError: disk"
        assert app.get_steps(run)[0].status == "failed"
        assert calls.taken() == list(range(10))
        is_fixed.append(True)
        assert again(app, run).output == 11
        assert calls.taken() == [10]


@WORKERS
def test_attempts_are_counted_over_all_launches(tmp_path, workers):
    """The tries of one launch by a Retry and those of later launches add up."""
    failures = []

    def work(item):
        if item == 2 and len(failures) < 5:
            failures.append(item)
            raise ConnectionError
        return item

    mapped = Mapped(work, range(4), retry=Retry(attempts=3, wait=0), max_workers=workers)
    with engine(tmp_path, mapped.job) as app:
        run = execute(app)
        assert run.error.message.startswith("1 of 4 items failed: 1 x ConnectionError (2)")
        assert [each.attempts for each in app.get_items(run, "label")] == [1, 1, 3, 1]
        assert again(app, run).status == "completed"
        assert [each.attempts for each in app.get_items(run, "label")] == [1, 1, 6, 1]


@WORKERS
def test_an_item_that_waits_for_its_next_try_occupies_no_worker(tmp_path, workers):
    """The others are executed meanwhile."""
    order = []

    def work(item):
        order.append(item)
        if item == 0 and order.count(0) == 1:
            raise ValueError
        return item

    mapped = Mapped(work, range(10), retry=Retry(wait=0.3, jitter=False), max_workers=workers)
    with engine(tmp_path, mapped.job) as app:
        assert execute(app).status == "completed"
    assert order[-1] == 0
    assert sorted(order) == [0, *range(10)]
    assert mapped.result == list(range(10))


def test_a_retry_may_be_a_function_of_the_exception(tmp_path):
    """The function says whether to try again, or after how long; it does so for steps too."""
    asked = []

    class LimitedError(Exception):
        pass

    def on(exc):
        asked.append(exc)
        return 0.01 if isinstance(exc, LimitedError) else isinstance(exc, ValueError)

    def job(step):
        left = [LimitedError(), ValueError(), KeyError()]

        def work(_=None):
            if len(left) > 0:
                raise left.pop(0)
            return 1

        retry = Retry(attempts=9, wait=lambda exc: timedelta(milliseconds=1), on=on)
        with pytest.raises(ItemsFailedError, match="1 x KeyError"):
            step.map("m", work, [1], retry=retry)
        left[:] = [LimitedError(), ValueError(), KeyError()]
        with pytest.raises(KeyError):
            step.options(retry=retry).run("s", work)
        return len(asked)

    with engine(tmp_path, job) as app:
        assert execute(app).output == 6


@WORKERS
def test_items_begin_at_the_rate_that_was_asked_for(tmp_path, workers):
    """Evenly spread, tries included, over all maps that share a limit."""
    times = []
    clock = threading.Lock()

    def work(item):
        with clock:
            times.append(datetime.now().timestamp())
        if len(times) == 3:
            raise ValueError
        return item

    limit = durably.RateLimit(50)

    def job(step):
        options = {"per_second": limit, "max_workers": workers, "retry": Retry(wait=0)}
        step.map("a", work, range(6), **options)
        step.map("b", work, range(3), **options)

    with engine(tmp_path, job) as app:
        assert execute(app).status == "completed"
    assert len(times) == 10
    assert max(times) - min(times) >= 9 / 50 * 0.95


@pytest.mark.parametrize(
    "values", [(0,), (-1,), ("1",), (True,), (1, 0), (1, 1.5), (float("nan"),)]
)
def test_a_rate_limit_is_checked(values):
    """A rate is a positive number, a burst a positive int."""
    with pytest.raises(durably.ValidationError, match="RateLimit"):
        durably.RateLimit(*values)


@WORKERS
def test_an_item_may_ask_to_be_called_later(tmp_path, monkeypatch, workers):
    """RetryAfter is neither a failure nor an attempt, and nothing of the map begins before then."""
    began, asked, postponed = [], [], []
    is_postponed = threading.Event()
    postpone = Pace.postpone

    def noting(pace, seconds):
        is_later = postpone(pace, seconds)
        postponed.append(time.monotonic())
        is_postponed.set()
        return is_later

    def work(item):
        began.append(time.monotonic())
        if item == 1 and len(asked) < 3:
            now = datetime.now().astimezone()
            when = [0.1, timedelta(seconds=0.1), now + timedelta(seconds=0.1)]
            asked.append(now)
            raise durably.RetryAfter(when[len(asked) - 1], "quota")
        assert item < 1 or is_postponed.wait(HANG_S)
        return item

    monkeypatch.setattr(Pace, "postpone", noting)
    mapped = Mapped(work, range(20), max_workers=workers)
    with engine(tmp_path, mapped.job) as app:
        run = execute(app)
        assert run.status == "completed"
        assert {each.attempts for each in app.get_items(run, "label")} == {1}
    assert mapped.result == list(range(20))
    assert len(asked) == len(postponed) == 3
    # Of those whose turn had come, each other worker may have been about to begin one.
    late = [at for at in began if postponed[0] < at < postponed[0] + 0.09]
    assert len(late) < workers


@pytest.mark.parametrize(
    "when", ["5", None, True, datetime(2026, 1, 1), float("nan"), float("inf")]
)
def test_a_time_to_be_called_at_is_checked(when):
    """It is seconds, a timedelta or an aware datetime."""
    with pytest.raises(durably.ValidationError, match="RetryAfter needs"):
        durably.RetryAfter(when)


@WORKERS
@pytest.mark.parametrize("reason", ["cancel", "interrupt", "take over"])
def test_a_map_stops_with_its_run(tmp_path, workers, reason):
    """No further item begins; those in progress are stored after an interrupt alone."""
    inside, go = threading.Event(), threading.Event()
    calls = []

    def work(item):
        calls.append(item)
        if item == 2:
            inside.set()
            assert go.wait(GRACE_S)
        return item

    mapped = Mapped(work, range(500), max_workers=workers)
    with engine(tmp_path, mapped.job) as app:
        app.start()
        run = app.trigger("job")
        assert inside.wait(GRACE_S)
        if reason == "cancel":
            app.cancel(run)
        elif reason == "take over":
            take_over(app)
            app._supervisor._heartbeat.tick()
        stopping, _ = in_thread(lambda: app.stop(interrupt=True))
        while app._supervisor.state.now.name == "STARTED":
            pass
        go.set()
        assert stopping.result() is None
        stored = {each.key for each in app.get_items(run, "label")}
        assert len(calls) < 500 or workers > 1
        assert (2 in stored) == (reason == "interrupt")
        expected = {"cancel": "cancelled"}.get(reason, "pending")
        assert app.get_run(run).status == expected
        if reason == "cancel":
            app.retry(run)
        executed = set(calls)
        calls.clear()
        assert app.process_one()
        assert app.get_run(run).output == 500
        assert stored.isdisjoint(calls)
        assert executed - stored <= set(calls)


def test_steps_and_log_lines_inside_an_item(tmp_path):
    """A step inside is a checkpoint of its own; lines carry the key and the map's name."""
    calls = []

    def job(step):
        def work(item):
            step.log.info("at work")
            value = step.run(f"inner-{item}", lambda: calls.append(item) or item)
            if item == 3 and step.attempt == 1:
                raise ValueError
            return value

        return step.map("m", work, range(6), max_workers=3, key=lambda n: f"k{n}")

    with engine(tmp_path, job) as app:
        lines = record(app, "log:write")
        run = execute(app)
        run = again(app, run)
        assert run.output == list(range(6))
    assert sorted(calls) == list(range(6))
    first = {line.data["item_key"]: line.step_name for line in lines[:6]}
    assert first == {f"k{n}": "m" for n in range(6)}


def test_steps_inside_an_item_that_is_tried_again_may_be_used_again(tmp_path):
    """As inside a step that is retried; used twice within one try is still an error."""
    tries = []

    def job(step):
        def work(item):
            step.run(f"inner-{item}", int)
            tries.append(item)
            if tries.count(item) < 3:
                raise ConnectionError
            if item == 1:
                step.run("inner-1", int)
            return item

        return step.map("m", work, range(4), max_workers=2, retry=Retry(wait=0, on=ConnectionError))

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.error.message.startswith("1 of 4 items failed: 1 x DuplicateStepError")


@WORKERS
def test_events_of_a_map(tmp_path, workers):
    """One start and one end for the map, and one event for each item, in the thread of the job."""
    calls = Calls(2)
    mapped = Mapped(calls, ["a", "b", 2], key=lambda each: each, max_workers=workers)
    threads = set()
    with engine(tmp_path, mapped.job) as app:
        events = record(app)
        app.on("*", lambda event: threads.add(threading.get_ident()) if "item" in event.type else 0)
        run = execute(app)
        told = [each for each in types_of(events) if each[:4] in ("step", "item")]
        assert told[0] == "step:start"
        assert sorted(told[1:-1]) == ["item:complete", "item:complete", "item:fail"]
        assert told[-1] == "step:fail"
        done = [each for each in events if each.type == "item:complete"]
        assert sorted((each.item_key, each.output, each.step_name) for each in done) == [
            ("a", "<a>", "label"),
            ("b", "<b>", "label"),
        ]
        failed = only(events, "item:fail")
        assert (failed.item_key, failed.error.message) == (2, "cannot parse 2")
        calls.bad = set()
        events.clear()
        again(app, run)
        told = [each for each in types_of(events) if each[:4] in ("step", "item")]
        assert told == ["step:start", "item:complete", "step:complete"]
    assert threads == {threading.get_ident()}


@WORKERS
def test_an_item_is_stored_before_its_event(tmp_path, workers, monkeypatch):
    """What listeners, progress and results report is committed."""
    told, saved = threading.Event(), threading.Event()
    orders = []

    def work(item):
        if item == 2:
            assert saved.wait(GRACE_S)  # the map goes on until an item is stored
        return item

    with engine(tmp_path, Mapped(work, range(3), max_workers=workers).job) as app:
        checkpoints = app._store.checkpoints
        save = checkpoints.save_items

        def slow(*args):
            told.wait(0.1)  # it is not, before this returns
            stored = save(*args)
            orders.append(["stored", *(row[0] for row in args[3])])
            saved.set()
            return stored

        monkeypatch.setattr(checkpoints, "save_items", slow, raising=False)

        @app.on("item:complete")
        def tell(event):
            told.set()
            orders.append(["told", event.item_key])

        assert execute(app).status == "completed"
    for key in range(3):
        kinds = [kind for kind, *keys in orders if key in keys]
        assert kinds == ["stored", "told"]


def test_a_completed_map_is_skipped(tmp_path):
    """A resume that finds all results emits step:skip and calls nothing."""
    calls = Calls()

    def job(step):
        step.map("m", calls, range(5))
        if step.attempt == 1:
            raise ValueError

    with engine(tmp_path, job) as app:
        run = execute(app)
        before = app.get_steps(run)
        calls.taken()
        events = record(app)
        run = again(app, run)
        assert [each for each in types_of(events) if each[:4] == "step"] == ["step:skip"]
        assert calls.taken() == []
        assert app.get_steps(run) == before


def test_the_name_of_a_map_is_that_of_a_step(tmp_path):
    """Used twice it is an error, by whatever call; and so is one that another kind has stored."""

    def job(step):
        step.map("m", int, ["1"])
        step.run("s", int)
        for use in (
            lambda: step.map("m", int, ["1"]),
            lambda: step.run("m", int),
            lambda: step.map("s", int, ["1"]),
        ):
            with pytest.raises((durably.DuplicateStepError, durably.ConflictError), match="'[ms]'"):
                use()

    def other(step):
        kinds = {"m": lambda: step.map("x", int, ["1"]), "r": lambda: step.run("x", int)}
        kinds["mr"[(step.attempt + len(step.labels)) % 2]]()
        if step.attempt == 1:
            raise ValueError

    with engine(tmp_path, job, other) as app:
        assert execute(app).status == "completed"
        for labels in ({}, {"a": "b"}):
            run = again(app, execute(app, job="other", labels=labels))
            assert run.error.type == "durably.ConflictError"
            assert "'x'" in run.error.message


def test_a_name_may_be_used_again_where_that_is_allowed(tmp_path):
    """With on_duplicate_step="reuse" the second map has the results of the first, and warns."""
    calls = Calls()

    def job(step):
        first = step.map("m", calls, range(3))
        with pytest.warns(durably.DuplicateStepWarning, match="'m' was used twice"):
            second = step.map("m", calls, range(3))
        return first == second and second.reused == 3

    with engine(tmp_path, job, on_duplicate_step="reuse") as app:
        run = execute(app)
        assert run.output is True, run.error
    assert calls.items == [0, 1, 2]


def test_a_map_inside_of_itself_is_an_error(tmp_path):
    """It raises what a step inside of itself raises."""

    def job(step):
        return step.map("m", lambda _: step.map("m", int, ["1"]), [1])

    with engine(tmp_path, job) as app:
        assert "ConflictError" in execute(app).error.message


@define
class Label:
    name: str
    tags: tuple[str, ...]


class Labeller:
    def label(self, name: str) -> Label:
        return Label(name, (name,))


def test_results_have_the_type_that_the_function_says(tmp_path):
    """Of methods and partials too, or of returns=; from checkpoints as well."""

    def job(step):
        method = step.map("method", Labeller().label, ["a"])
        partial = step.map("partial", functools.partial(Labeller.label, Labeller()), ["a"])
        given = step.map("given", lambda x: Label(x, ()), ["a"], returns=Label, max_workers=2)
        untyped = step.map("untyped", lambda x: {x: (Label(x, ()), {x})}, ["a"])
        with pytest.raises(ItemsFailedError, match="SerializationError"):
            step.map("formless", iter, ["a"])
        if step.attempt == 1:
            raise ValueError
        assert method == partial == [Label("a", ("a",))]
        assert given == [Label("a", ())]
        assert untyped == [{"a": (Label("a", ()), {"a"})}]
        assert method.reused == given.reused == untyped.reused == 1

    with engine(tmp_path, job) as app:
        assert again(app, execute(app)).status == "completed"


def test_progress_is_by_itself(tmp_path):
    """Done and total, and in words what failed and came from checkpoints; a job's own wins."""
    calls = Calls(1)

    def job(step):
        step.map("m", calls, range(4), on_failed="return")
        if step.attempt == 1:
            raise ValueError

    def own(step):
        step.progress(7, 9)
        step.map("m", calls, range(4), on_failed="return")

    with engine(tmp_path, job, own) as app:
        run = execute(app)
        assert run.progress == durably.Progress(3, 4, "1 failed")
        calls.bad = set()
        assert again(app, run).progress == durably.Progress(4, 4, "3 from checkpoints")
        assert execute(app, job="own").progress == durably.Progress(7, 9)


def test_threads_of_a_map_see_the_context_of_the_job(tmp_path):
    """They have the context variables of the job, and names."""
    variable = contextvars.ContextVar("variable", default="none")
    names = set()

    def work(_):
        names.add(threading.current_thread().name)
        return variable.get()

    def job(step):
        variable.set("set")
        return set(step.map("m", work, range(20), max_workers=3)) == {"set"}

    with engine(tmp_path, job) as app:
        assert execute(app).output is True
    assert names
    assert all(name.startswith("durably-map-") for name in names)


@WORKERS
def test_each_item_is_committed_before_the_next_one_on_request(tmp_path, workers):
    """With max_uncommitted=1, as a loop of step.run does."""
    checked = []

    def job(step):
        def work(item):
            stored = {each.key for each in app.get_items(step.run_id, "m")}
            checked.append(len(begun - stored) <= workers)
            begun.add(item)
            return item

        begun = set()
        return len(step.map("m", work, range(30), max_uncommitted=1, max_workers=workers))

    with engine(tmp_path, job) as app:
        assert execute(app).output == 30
    assert checked == [True] * 30


@WORKERS
def test_an_item_has_a_deadline(tmp_path, workers):
    """step.remaining counts down; step.check and step.sleep raise when it has passed."""
    seen = []

    def job(step):
        def work(item):
            seen.append(step.remaining)
            if item == 1:
                step.sleep(GRACE_S)
            while item == 2:
                step.check()
            return item

        assert step.remaining is None
        return len(
            step.map("m", work, range(4), timeout=0.2, max_workers=workers, on_failed="return")
        )

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output == 2
        failed = app.get_items(run, "m", status="failed")
    assert [each.error.type for each in failed] == ["durably.StepTimeoutError"] * 2
    assert all(0 < left <= 0.2 for left in seen)


@WORKERS
def test_what_is_no_failure_of_an_item_ends_the_map(tmp_path, workers):
    """SystemExit fails the run as it does in a step; what is done is kept."""

    def work(item):
        if item == 5:
            raise SystemExit(3)
        executed.append(item)
        return item

    executed = []
    mapped = Mapped(work, range(5000), max_workers=workers)
    with engine(tmp_path, mapped.job) as app:
        run = execute(app)
        assert str(run.error) == "SystemExit: 3"
        stored = app.get_items(run, "label")
        assert {each.key for each in stored} >= {*executed, 5}
        assert len(stored) < 5000


def test_an_empty_map_is_a_step(tmp_path):
    """Its record says so, and it is stored."""
    mapped = Mapped(int, [])
    with engine(tmp_path, mapped.job) as app:
        run = execute(app)
        (step,) = app.get_steps(run)
        assert (step.status, step.items) == ("completed", ItemCounts(0, 0, 0, 0))
        assert app.get_items(run, "label") == []
    assert mapped.result == []


def test_items_of_what_is_not_there(tmp_path):
    """An unknown run is an error, a map of which nothing is stored has no items."""
    with engine(tmp_path, Mapped(int, []).job) as app:
        run = execute(app)
        assert app.get_items(run, "other") == []
        with pytest.raises(durably.NotFoundError):
            app.get_items("nowhere", "label")
        for wrong in ({"status": "open"}, {"limit": -1}, {"offset": -1}):
            with pytest.raises(durably.ValidationError):
                app.get_items(run, "label", **wrong)
        with pytest.raises(durably.ValidationError):
            app.get_items(run, 5)


def rewrite(path, change):
    """Change the second item as another program may, around triggers and constraints."""
    db = open_database(path)
    db.pragma("ignore_check_constraints", True)
    second = "(item & ((1 << 30) - 1)) = 1"
    db.execute(f"""
        CREATE TEMP TABLE written AS SELECT * FROM durably_items WHERE {second};
        UPDATE written SET {change};
        DELETE FROM durably_items WHERE {second};
        INSERT INTO durably_items SELECT * FROM written""")
    db.close()


def test_an_item_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path, caplog):
    """The one exception is an item that is not text: SQLite's own reading ends there."""
    with engine(tmp_path, Mapped(int, range(3)).job) as app:
        run = execute(app)
        for column, change in (
            ("output", "output = '{nope'"),
            ("error", "output = NULL, error = '[1]'"),
            ("started_at_us", "error = NULL, output = '1', started_at_us = 1 << 62"),
        ):
            caplog.clear()
            rewrite(tmp_path / "durably.db", change)
            assert [each.index for each in app.get_items(run, "label")] == [0, 2]
            assert f"item 1 of step 'label' of run '{run.id}'" in caplog.text
            assert column in caplog.text
        rewrite(tmp_path / "durably.db", "started_at_us = 0, output = CAST(x'22ff22' AS TEXT)")
        with pytest.raises(durably.DatabaseError, match="of map 'label' .* not valid UTF-8"):
            app.get_items(run, "label")


def test_keys_cannot_be_left_out_later(tmp_path):
    """A map whose items are stored by key needs its key; positions may be replaced by keys."""
    calls = Calls()

    def job(step):
        options = [{}, {"key": str}, {"key": str}, {}][step.attempt - 1]
        result = step.map("m", calls, ["a", "b"], **options)
        if step.attempt < 3:
            raise ValueError
        return result

    with engine(tmp_path, job) as app:
        run = execute(app)
        executed = [calls.taken()]
        for _ in range(2):
            run = again(app, run)
            executed.append(calls.taken())
        assert run.output == ["<a>", "<b>"]
        assert executed == [["a", "b"], ["a", "b"], []]
        indexes = [(each.key, each.index) for each in app.get_items(run, "m")]
        assert indexes == [(0, 0), (1, 1), ("a", 2), ("b", 3)]


def test_a_large_map_is_resumed_window_by_window(tmp_path):
    """Of ten thousand items, in another order and with new ones between, none is executed twice."""
    calls = Calls(*(f"k{n}" for n in range(0, 10_000, 7)))

    def job(step):
        items = [f"k{n}" for n in range(10_000)]
        if step.attempt == 2:
            calls.bad = set()
            items = [*items[5000:], "new", *items[:5000]]
        return len(step.map("m", calls, items, key=str, max_failures=10_000))

    with engine(tmp_path, job) as app:
        run = execute(app)
        calls.taken()
        run = again(app, run)
        assert run.output == 10_001, str(run.error)
        assert calls.taken() == sorted(["new", *(f"k{n}" for n in range(0, 10_000, 7))])
        assert app.get_steps(run)[0].items.reused == 10_000 - 1429


@define
class Point:
    x: int
    name: str = "p"


RESULTS = {
    "int": (int, lambda n: n * 10**30),
    "float": (float, lambda n: n / 7),
    "str": (str, lambda n: f"\ud800\udc00{n}"),
    "bool": (bool, lambda n: n % 2 == 0),
    "None": (type(None), lambda _: None),
    "JSON-like": (None, lambda n: [n, {"n": [n]}] if n % 2 else -n),
    "list": (list[float], lambda n: [n / 3]),
    "class": (Point, lambda n: Point(n, f"p{n}")),
}


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("key", [None, str])
@pytest.mark.parametrize("make", [list, iter])
@pytest.mark.parametrize("call", ["map", "imap"])
def test_results_come_back_as_they_were(tmp_path, result, key, make, call):
    """Those from checkpoints beside new ones, where items before, between and after have failed."""
    type_, work = RESULTS[result]
    bad = {0, 7, 8, 300, 599}
    executed = []

    def fails_first(n):
        executed.append(n)
        if n in bad and len(executed) <= 600:
            raise ValueError(n)
        return work(n)

    found = {}

    def job(step):
        given = make(range(600 + 20 * (step.attempt - 1)))
        options = {"key": key, "returns": type_, "max_workers": 2}
        if call == "map":
            results = step.map("m", fails_first, given, **options)
            found.update(zip(results.keys, results, strict=True))
            return results.reused
        found.clear()
        for each in step.imap("m", fails_first, given, **options):
            assert each.key not in found
            if each.status == "completed":
                found[each.key] = each.output
                assert (each.index, each.attempts) == (int(each.key), 1 + (int(each.key) in bad))
                assert each.started_at <= each.completed_at
        return 595

    with engine(tmp_path, job) as app:
        run = execute(app)
        run = again(app, run)
        assert (run.status, run.output) == ("completed", 595), run.error
        total = 620 if make is list else None
        assert app.get_steps(run)[0].items == ItemCounts(620, 0, 595, total)
    assert sorted(executed[600:]) == [*sorted(bad), *range(600, 620)]
    assert found == {n if key is None else str(n): work(n) for n in range(620)}
    assert {type(each) for each in found.values()} == {type(work(n)) for n in range(620)}


@pytest.mark.parametrize("make", [list, iter])
def test_changed_items_are_counted_beside_those_that_failed(tmp_path, make):
    """At positions with results alone, however far into the map."""
    texts = [f"d{n}" for n in range(700)]
    calls = Calls("d5", "d6", "d650")

    def job(step):
        if step.attempt == 2:
            calls.bad = set()
            changed = {5: "e5", 7: "e7", 300: "e300", 650: "e650", 699: "e699"}
            given = [changed.get(n, text) for n, text in enumerate(texts)]
        else:
            given = texts
        return step.map("m", calls, make(given))[4:8]

    with engine(tmp_path, job) as app:
        run = execute(app)
        calls.taken()
        with pytest.warns(ItemsChangedWarning, match="other items than before are at 3 positions"):
            run = again(app, run)
        assert run.output == ["<d4>", "<e5>", "<d6>", "<d7>"]
    assert calls.taken() == ["d6", "e5", "e650"]


def test_a_key_that_comes_again_among_stored_ones_is_an_error(tmp_path):
    """In a lazy map, wherever the first use was; what is stored stays."""
    calls = Calls()

    def job(step):
        items = [f"k{n}" for n in range(400)]
        step.map("m", calls, iter(items if step.attempt == 1 else [*items, "k3"]), key=str)
        raise LookupError

    with engine(tmp_path, job) as app:
        run = execute(app)
        calls.taken()
        run = again(app, run)
        assert "positions 3 and 400 have the same key 'k3'" in run.error.message
        assert len(app.get_items(run, "m", status="completed")) == 400
    assert calls.taken() == []


class Frame:
    """What the test needs of pandas.DataFrame."""

    def __init__(self, rows):
        self.rows = rows
        self.columns = list(dict.fromkeys(name for row in rows for name in row))

    def __getitem__(self, columns):
        frame = Frame([{name: row.get(name) for name in columns} for row in self.rows])
        frame.columns = columns
        return frame


def test_a_frame_has_a_row_for_each_item(tmp_path, monkeypatch):
    """In the order of the items, with the fields of the results, and what has failed."""
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=Frame))

    def label(name) -> Label:
        if name == "bad":
            raise ValueError("no")
        return Label(name, ())

    mapped = Mapped(label, ["a", "bad", "c"], key=str, on_failed="return")
    with engine(tmp_path, mapped.job) as app:
        execute(app)
    frame = mapped.result.to_frame()
    assert frame.columns == ["key", "status", "name", "tags", "error", "seconds", "attempts"]
    assert [(row["key"], row["status"], row["name"], row["error"]) for row in frame.rows] == [
        ("a", "completed", "a", None),
        ("bad", "failed", None, "ValueError: no"),
        ("c", "completed", "c", None),
    ]
    assert all(row["attempts"] == 1 and row["seconds"] >= 0 for row in frame.rows)


@pytest.mark.parametrize(
    ("results", "columns"),
    [([{"x": 1, "key": 2}], ["x", "result.key"]), ([[1, 2]], ["result"]), ([], [])],
)
def test_a_frame_has_columns_for_the_results(tmp_path, monkeypatch, results, columns):
    """Their fields, or one for those that have none."""
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=Frame))
    mapped = Mapped(lambda each: each, results)
    with engine(tmp_path, mapped.job) as app:
        execute(app)
    assert mapped.result.to_frame().columns[2:-3] == columns


def test_a_type_that_cannot_be_stored_is_known_before(tmp_path):
    """Nothing is executed for a result that nothing could store."""
    calls = []

    def work(item) -> Frame:
        calls.append(item)

    with engine(tmp_path, Mapped(work, [1]).job) as app:
        run = execute(app)
        assert run.error.type == "durably.SerializationError"
    assert calls == []


@pytest.mark.parametrize("number", range(12))
def test_any_map_ends_with_all_results(tmp_path, seed, number):
    """Whatever fails, waits, grows and in whatever order: at the end all have their result."""
    rng = random.Random(f"{seed} {number}")
    options = {
        "max_workers": rng.choice([1, 2, 5]),
        "max_uncommitted": rng.choice([1, 3, 256]),
        "key": rng.choice([None, str]),
        "retry": rng.choice([None, Retry(attempts=2, wait=0.001)]),
        "max_failures": rng.choice([None, 5, 0.5]),
    }
    call = rng.choice(["map", "imap", "ordered"])
    items = [rng.choice([f"i{n}", f"j{n}"]) for n in range(rng.choice([0, 1, 30, 400]))]
    badness = rng.choice([0, 0.1, 0.5])
    tries = Counter()
    lock = threading.Lock()

    def work(item) -> str:
        with lock:
            tries[item] += 1
            dice = rng.random() * max(1, tries[item] - 3)  # rarer from try to try
        if dice < badness / 3:
            raise durably.RetryAfter(0.001)
        if dice < badness:
            raise ConnectionError(item)
        return f"<{item}>"

    def job(step):
        given = list(items)
        if options["key"] is not None:
            rng.shuffle(given)
        given = rng.choice([list, tuple, iter])(given)
        if call == "map":
            result = step.map("m", work, given, **options)
            found = dict(zip(result.keys, result, strict=True))
        else:
            records = step.imap("m", work, given, ordered=call == "ordered", **options)
            found = {each.key: each.output for each in records if each.status == "completed"}
        keys = items if options["key"] else range(len(items))
        assert found == {key: f"<{item}>" for key, item in zip(keys, items, strict=True)}

    with engine(tmp_path, job) as app:
        run = execute(app)
        for _ in range(100):
            done = len(app.get_items(run, "m", status="completed"))
            if run.status == "completed":
                break
            assert run.error.type == "durably.ItemsFailedError", run.error
            run = again(app, run)
            assert len(app.get_items(run, "m", status="completed")) >= done
        assert run.status == "completed"
        (step,) = app.get_steps(run)
        assert (step.items.done, step.items.failed) == (len(items), 0)
        indexes = [each.index for each in app.get_items(run, "m")]
        assert len(set(indexes)) == len(items)
        if options["key"] is None:
            assert indexes == list(range(len(items)))
    assert check(tmp_path / "durably.db") == []
