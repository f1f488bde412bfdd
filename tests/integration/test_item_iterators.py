"""``step.imap`` and ``step.parallel``."""

from __future__ import annotations

import gc
import threading
import traceback
import tracemalloc

import pytest
from calls import names_of_threads
from engines import GRACE_S, again, engine, execute, only, record, types

import durably
from durably import ItemCounts, ItemsFailedError

WORKERS = pytest.mark.parametrize("workers", [1, 4])


@WORKERS
@pytest.mark.parametrize("is_ordered", [True, False])
def test_records_come_as_items_end(tmp_path, workers, is_ordered):
    """Each comes once, with its decoded result; in the order of the items on request."""
    records = []

    def job(step):
        for each in step.imap(
            "m",
            lambda n: (n, n),
            range(300),
            max_workers=workers,
            ordered=is_ordered,
            returns=tuple[int, int],
            key=lambda n: f"k{n}",
        ):
            records.append(each)
        return len(records)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output == 300, run.error
        assert app.get_steps(run)[0].items == ItemCounts(300, 0, 0, 300)
        stored = app.get_items(run, "m")
    assert sorted(each.output for each in records) == [(n, n) for n in range(300)]
    if is_ordered or workers == 1:
        assert [each.index for each in records] == list(range(300))
    assert {each.status for each in records} == {"completed"}
    assert [each.key for each in stored] == [f"k{n}" for n in range(300)]


def test_a_slow_item_holds_back_no_other_unless_in_order(tmp_path):
    """Records come as they end; in order, the items behind go on, up to a bound."""
    go = threading.Event()
    ended = []

    def work(item):
        if item == 0:
            assert go.wait(GRACE_S)
        ended.append(item)
        return item

    def job(step):
        items = step.imap("m", work, range(50), max_workers=2)
        first = [next(items).output for _ in range(49)]
        go.set()
        assert 0 not in first
        assert [each.output for each in items] == [0]
        go.clear()
        ended.clear()
        threading.Timer(0.3, go.set).start()
        ordered = step.imap("o", work, range(500), max_workers=2, ordered=True, max_uncommitted=10)
        assert next(ordered).output == 0
        return len(ended) < 60 and [each.output for each in ordered] == list(range(1, 500))

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output is True, run.error


@WORKERS
def test_stored_records_come_first(tmp_path, workers):
    """On a resume, those from checkpoints are there before any other is executed."""
    calls = []

    def work(item):
        calls.append(item)
        if item % 3 == 0 and len(calls) <= 30:
            raise ValueError(item)
        return item

    def job(step):
        records = []
        for each in step.imap("m", work, list(range(30)), max_workers=workers):
            if each.index % 3 and step.attempt == 2:
                assert len(calls) == 30
            records.append(each)
        return [each.key for each in records[:20]] == [n for n in range(30) if n % 3]

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.error.message.startswith("10 of 30 items failed")
        run = again(app, run)
        assert run.output is True, run.error
    assert sorted(calls[30:]) == list(range(0, 30, 3))


@pytest.mark.parametrize("is_ordered", [True, False])
def test_no_stored_record_comes_from_a_closed_iterator(tmp_path, is_ordered):
    """Although many are read from the database at once."""

    def job(step):
        items = step.imap("m", abs, range(100), ordered=is_ordered)
        if step.attempt == 1:
            assert len(list(items)) == 100
            raise ValueError
        assert [next(items).output for _ in range(3)] == [0, 1, 2]
        items.close()
        return list(items)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.error.type == "ValueError", run.error
        run = again(app, run)
        assert run.output == [], run.error


def test_errors_of_an_iterator_show_the_frames_of_the_user_alone(tmp_path):
    """The frames of durably are cut, for an error of the iterator and for one of the iterable."""

    def broken():
        yield 1
        raise LookupError

    def job(step):
        frames = []
        for name, items in (("m", ["a"]), ("n", broken())):
            with pytest.raises((ItemsFailedError, LookupError)) as caught:
                list(step.imap(name, abs, items))
            frames.append(
                [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
            )
        return frames

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output == [["job"], ["job", "broken"]], run.error


def test_failures_are_among_the_records_and_raised_at_the_end(tmp_path):
    """As map does; with on_failed="return" they are records alone."""
    seen = []

    def job(step):
        with pytest.raises(ItemsFailedError, match="1 of 3 items failed"):
            seen.extend(step.imap("m", int, ["1", "x", "3"]))
        seen.extend(step.imap("n", int, ["x"], on_failed="return"))

    with engine(tmp_path, job) as app:
        assert execute(app).status == "completed"
        (m, n) = app.get_steps(app.get_runs()[0])
    assert [each.status for each in seen] == ["completed", "failed", "completed", "failed"]
    assert [str(each.error)[:10] for each in seen if each.error] == ["ValueError"] * 2
    assert (m.status, n.status) == ("failed", "completed")


@WORKERS
@pytest.mark.parametrize("how", ["close", "drop", "break", "end"])
def test_an_iterator_that_is_left_behind_stops_the_map(tmp_path, workers, how):
    """As if interrupted: what has ended is stored, no thread is left, and a later use goes on."""
    calls = []
    kept = []

    def job(step):
        if step._run.fence > 1:
            return len(list(step.imap("m", work, range(1000), max_workers=workers)))
        items = step.imap("m", work, range(1000), max_workers=workers)
        next(items)
        if how == "close":
            items.close()
            assert list(items) == []
        elif how == "drop":
            del items
            gc.collect()
        elif how == "break":
            for _ in items:
                break
        else:
            kept.append(items)
        raise ValueError

    def work(item):
        calls.append(item)
        return item

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert str(run.error) == "ValueError"
        stored = {each.key for each in app.get_items(run, "m")}
        assert not [name for name in names_of_threads() if "map" in name]
        assert stored == set(calls)
        assert 0 < len(calls) < 1000
        assert app.get_steps(run) == []
        calls.clear()
        run = again(app, run)
        assert run.output == 1000
        assert stored.isdisjoint(calls)
    for items in kept:
        assert list(items) == []


@WORKERS
def test_memory_is_bounded_by_what_is_in_flight(tmp_path, workers):
    """Whatever number of items there is, but for a number of a few bytes for each."""
    peaks = []

    def job(step):
        for name, count in (("warm", 500), ("few", 1_000), ("many", 5_000)):
            tracemalloc.start()
            for _ in step.imap(
                name,
                lambda n: "x" * 4_000,
                range(count),
                key=lambda n: f"k{n}",
                max_workers=workers,
            ):
                pass
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

    with engine(tmp_path, job) as app:
        assert execute(app).status == "completed"
    # The keys of the newest 10,000 are a million bytes; the results of all would be 16.
    assert peaks[2] - peaks[1] < 4_000_000


def test_arguments_of_imap_are_checked_at_once(tmp_path):
    """Before the first record is asked for."""

    def job(step):
        for wrong in ({"ordered": 1}, {"max_workers": 0}):
            with pytest.raises(durably.ValidationError, match="step.imap"):
                step.imap("m", int, ["1"], **wrong)

    with engine(tmp_path, job) as app:
        assert execute(app).status == "completed"


def test_parallel_steps_are_executed_at_once(tmp_path):
    """Each a step with a checkpoint of its own; the results come in the order given."""
    barrier = threading.Barrier(3)
    calls = []

    def fetch(name):
        calls.append(name)
        barrier.wait(GRACE_S)
        return name.upper()

    def job(step):
        found = step.parallel({name: lambda n=name: fetch(n) for name in "cab"})
        assert list(found.items()) == [("c", "C"), ("a", "A"), ("b", "B")]
        if step.attempt == 1:
            raise ValueError
        return list(found)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert sorted(step.name for step in app.get_steps(run)) == ["a", "b", "c"]
        events = record(app)
        run = again(app, run)
        assert run.output == ["c", "a", "b"]
        assert types(events).count("step:skip") == 3
    assert sorted(calls) == ["a", "b", "c"]
    assert not [name for name in names_of_threads() if "parallel" in name]


def test_parallel_steps_all_come_to_their_end(tmp_path):
    """Then the first failure in the order given is raised, the others as its notes."""
    others = threading.Event()

    def job(step):
        def late():
            assert others.wait(GRACE_S)
            raise ValueError("first in order")

        def early():
            others.set()
            raise KeyError("soon")

        return step.parallel({"ok": lambda: 1, "late": late, "early": early})

    with engine(tmp_path, job) as app:
        events = record(app)
        run = execute(app)
        assert str(run.error) == "ValueError: first in order"
        assert run.error.notes == ("step 'early' has failed as well: KeyError: 'soon'",)
        assert only(events, "run:fail").failed_step == "late"
        found = {step.name: step.status for step in app.get_steps(run)}
    assert found == {"ok": "completed", "late": "failed", "early": "failed"}


def test_parallel_steps_are_bounded(tmp_path):
    """No more than max_workers are executed at once."""
    inside = []
    most = []

    def work():
        inside.append(1)
        most.append(len(inside))
        inside.pop()

    def job(step):
        return len(step.parallel({f"s{n}": work for n in range(20)}, max_workers=1))

    with engine(tmp_path, job) as app:
        assert execute(app).output == 20
    assert max(most) == 1


@pytest.mark.parametrize(
    ("functions", "workers"),
    [
        ([int], None),
        ({"a": 5}, None),
        ({"": int}, None),
        ({5: int}, None),
        ({"a": int}, 0),
        ({"a": int}, True),
        ({"a": int}, "1"),
    ],
)
def test_arguments_of_parallel_are_checked(tmp_path, functions, workers):
    """Before anything is executed."""
    calls = []

    def job(step):
        if isinstance(functions, dict):
            functions["z"] = lambda: calls.append(1)
        with pytest.raises(durably.ValidationError):
            step.parallel(functions, max_workers=workers)
        assert step.parallel({}) == {}

    with engine(tmp_path, job) as app:
        assert execute(app).status == "completed"
    assert calls == []


def test_parallel_steps_stop_with_their_run(tmp_path):
    """Those in progress end, the others do not begin, and the run goes back."""
    calls = []

    def job(step):
        def work(name):
            calls.append(name)
            if name == "a" and step.attempt == 1:
                stopping = threading.Thread(target=lambda: app.stop(interrupt=True))
                stopping.start()
                while not step.cancelled:
                    pass
                stoppings.append(stopping)
            return name

        return list(step.parallel({n: lambda n=n: work(n) for n in "abc"}, max_workers=1))

    stoppings = []
    with engine(tmp_path, job) as app:
        run = app.jobs["job"].trigger()
        app.start()
        while not stoppings:
            pass
        stoppings[0].join()
        assert app.get_run(run).status == "pending"
        assert calls == ["a"]
        assert app.process_one()
        assert app.get_run(run).output == ["a", "b", "c"]
        assert calls == ["a", "b", "c"]


@WORKERS
def test_a_loop_that_an_exception_has_left_ends_for_the_next_one(tmp_path, workers):
    """A traceback keeps the old iterator, which says so when it is used, and ends no loop early."""

    def loop(step, caught=None):
        return sum(1 / caught for _ in step.imap("q", abs, range(-9, 0), max_workers=workers))

    def job(step):
        with pytest.raises(ZeroDivisionError) as caught:
            loop(step, 0)
        total = loop(step, 1)
        with pytest.raises(ZeroDivisionError) as also_caught:
            step.options(retry=durably.Retry(2, wait=0)).run("outer", inner, step, calls := [])
        old = step.imap("o", abs, range(-500, 0), max_uncommitted=1)
        next(old)
        assert len(list(step.imap("o", abs, range(-500, 0)))) == 500
        with pytest.raises(durably.ConflictError, match="another loop over step 'o' .* has begun"):
            list(old)
        assert caught.traceback
        assert also_caught.traceback
        return [total, len(calls)]

    def inner(step, calls):
        calls.append(1)
        sum(1 / 0 for _ in step.imap("inner", abs, range(3)))

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output == [9, 2], run.error


def test_a_loop_is_inside_its_item_while_that_is_executed(tmp_path):
    """An item that uses the name of its own map fails as before."""

    def job(step):
        list(step.imap("q", lambda _: list(step.imap("q", abs, [1])), [1]))

    with engine(tmp_path, job) as app:
        run = execute(app)
    assert run.error.type == "durably.ItemsFailedError"
    assert "used inside itself" in run.error.message
