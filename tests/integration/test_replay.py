"""Long replays: thousands of checkpoints, read in windows, in whatever order they are asked for."""

from __future__ import annotations

import random

import apsw
import pytest
from engines import again, engine, execute, record

from durably.store.sqlite.sql import steps as stored
from durably.store.sqlite.store import SqliteCheckpoints

STEPS = 5000


def names(count: int = STEPS) -> list[str]:
    return [f"step-{number}" for number in range(count)]


def test_thousands_of_steps_are_replayed_without_a_call(tmp_path):
    """A run of 5,000 steps gets each result from its checkpoint on a resume, with its index."""
    assert STEPS > 2 * stored.WINDOW_STEPS
    calls = []

    def work(name):
        calls.append(name)
        return f"result of {name}"

    def job(step):
        results = [step.run(name, work, name) for name in names()]
        if step.attempt == 1:
            raise ValueError
        return results

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.completed_steps == STEPS
        skipped = record(app, "step:skip")
        run = again(app, run)
        assert run.output == [f"result of {name}" for name in names()], run.error
        assert calls == names()
        assert [(e.step_name, e.step_index) for e in skipped] == [
            (name, index) for index, name in enumerate(names())
        ]
        records = app.get_steps(run)
    assert [(each.index, each.name, each.attempt) for each in records] == [
        (index, name, 1) for index, name in enumerate(names())
    ]


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of ten steps, so that a run of a hundred has many."""
    monkeypatch.setattr(stored, "WINDOW_STEPS", 10)


ORDERS = {
    "the same": lambda all_: all_,
    "reversed": lambda all_: all_[::-1],
    "the last one first": lambda all_: [all_[-1], *all_[:-1]],
    "the first one last": lambda all_: [*all_[1:], all_[0]],
    "every third, then the rest": lambda all_: [*all_[::3], *all_[1::3], *all_[2::3]],
    "a window left out": lambda all_: [*all_[:15], *all_[35:], *all_[15:35]],
    "shuffled": lambda all_: random.Random(7).sample(all_, len(all_)),
}


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_checkpoints_are_found_in_any_order(tmp_path, order):
    """Whatever order today's code has, a completed step is never executed again."""
    calls = []

    def work(name):
        calls.append(name)
        return name

    def job(step):
        wanted = names(100) if step.attempt == 1 else order(names(100))
        for name in wanted:
            assert step.run(name, work, name) == name
        step.run(f"new-{step.attempt}", work, "new")
        if step.attempt == 1:
            raise ValueError

    with engine(tmp_path, job) as app:
        run = execute(app)
        run = again(app, run)
        assert run.status == "completed", run.error
        assert calls == [*names(100), "new", "new"]
        newest = [(s.name, s.index) for s in app.get_steps(run)][-2:]
        assert newest == [("new-1", 100), ("new-2", 101)]


@pytest.mark.usefixtures("small_windows")
def test_steps_that_todays_code_lacks_are_no_hindrance(tmp_path):
    """Code that uses only some of the stored names, and new ones between, executes the new ones."""
    calls = []

    def job(step):
        if step.attempt == 1:
            for name in names(60):
                step.run(name, str)
            raise ValueError
        for name in names(60)[::7]:
            step.run(name, calls.append, name)
            step.run(f"after {name}", calls.append, f"after {name}")

    with engine(tmp_path, job) as app:
        run = execute(app)
        run = again(app, run)
        assert run.status == "completed", run.error
        stored_steps = app.get_steps(run)
    assert calls == [f"after {name}" for name in names(60)[::7]]
    assert [each.index for each in stored_steps] == list(range(60 + len(calls)))


@pytest.mark.usefixtures("small_windows")
def test_failed_steps_across_windows_execute_again_with_their_index(tmp_path):
    """Failed steps between completed ones, in every window, are the only ones executed again."""
    calls = []

    def work(step, number):
        calls.append(number)
        if step.attempt == 1 and number % 8 == 0:
            raise OSError
        return number

    def job(step):
        failures = 0
        for number in range(50):
            try:
                assert step.run(f"step-{number}", work, step, number) == number
            except OSError:
                failures += 1
        if failures:
            raise ValueError

    with engine(tmp_path, job) as app:
        run = execute(app)
        calls.clear()
        run = again(app, run)
        assert run.status == "completed", run.error
        assert calls == [number for number in range(50) if number % 8 == 0]
        assert [(s.name, s.index) for s in app.get_steps(run)] == [
            (f"step-{number}", number) for number in range(50)
        ]


@pytest.mark.usefixtures("small_windows")
def test_a_step_failing_over_and_over_keeps_its_index_across_windows(tmp_path):
    """A failed step used again in the same attempt keeps its index, beyond the first window too."""

    def fail():
        raise OSError

    def job(step):
        if step.attempt == 1:
            for name in names(30):
                step.run(name, str)
            raise ValueError
        for name in ("flaky", names(30)[29], "flaky"):
            try:
                step.run(name, fail)
            except OSError:
                continue

    with engine(tmp_path, job) as app:
        run = again(app, execute(app))
        assert run.status == "completed", run.error
        newest = app.get_steps(run)[-1]
        assert (newest.name, newest.index, newest.status) == ("flaky", 30, "failed")


def test_results_larger_than_a_window_are_replayed(tmp_path):
    """Results of which each fills a window by itself come back as well."""
    size = stored.WINDOW_CHARS + 1
    calls = []

    def work(number):
        calls.append(number)
        return str(number) * size

    def job(step):
        for number in range(4):
            assert step.run(f"step-{number}", work, number) == str(number) * size
        if step.attempt == 1:
            raise ValueError

    with engine(tmp_path, job) as app:
        run = again(app, execute(app))
        assert run.status == "completed", run.error
    assert calls == [0, 1, 2, 3]


def test_results_are_held_a_window_at_a_time(tmp_path):
    """A resume reads only as many checkpoints at once as a window holds."""
    size = stored.WINDOW_CHARS // 2 + 1

    def job(step):
        for number in range(5):
            step.run(f"step-{number}", lambda: "x" * size)
        raise ValueError

    with engine(tmp_path, job, blobs=False) as app:
        execute(app)
        window = app._store.database.read(stored.window, 1, 0)
    assert list(window.checkpoints) == ["step-0", "step-1"]
    assert window.next_index == 2


@pytest.mark.parametrize("query", ["window", "find"])
def test_checkpoint_that_cannot_be_read_now_is_read_later(
    tmp_path, monkeypatch, small_windows, query
):
    """An I/O error between two windows is emitted as worker:error; it fails no run and no step."""
    real, refused, calls = getattr(stored, query), [], []

    def refuse_once(db, *args):
        if args[1:] != (0,) and not refused:  # not while the run is being claimed
            refused.append(1)
            raise apsw.IOError("unreadable")
        return real(db, *args)

    def read(self, *args):
        return self.database.read(refuse_once, *args)

    def job(step):
        results = [step.run(name, lambda name=name: calls.append(name)) for name in names(30)]
        if step.attempt == 1:
            raise ValueError
        return len(results)

    with engine(tmp_path, job) as app:
        run = execute(app)
        errors = record(app, "worker:error")
        monkeypatch.setattr(SqliteCheckpoints, query, read)
        run = again(app, run)
    assert (run.output, run.attempt, refused) == (30, 2, [1]), run.error
    assert calls == names(30)
    assert [(each.run_id, each.context) for each in errors] == [(run.id, "reading checkpoints")]
