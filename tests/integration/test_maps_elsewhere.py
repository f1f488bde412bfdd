"""``step.map`` on processes of its own, and on executors of other projects."""

from __future__ import annotations

import functools
import os
import sys
import threading
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor

import pooled
import pytest
from engines import GRACE_S, again, engine, execute
from pooled import EXECUTORS

import durably
from durably import (
    ExecutorBrokenError,
    ItemsFailedError,
    Retry,
    StepTimeoutError,
    ValidationError,
    WorkerDiedError,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="tested on Linux"),
]

KINDS = pytest.mark.parametrize("kind", EXECUTORS)


class Mapped:
    """A job that maps a function over items, with options that can be changed."""

    def __init__(self, fn, items, **options):
        self.fn, self.items, self.options = fn, items, options
        self.result = None
        self.error = None

    def job(self, step):
        try:
            self.result = step.map("m", self.fn, self.items, **self.options)
        except Exception as exc:
            self.error = exc
            raise


def mapped(folder, fn, items=range(20), **options):
    """Execute a map; what it has returned or raised."""
    each = Mapped(fn, items, **options)
    with engine(folder, each.job) as app:
        execute(app)
    return each.result if each.error is None else each.error


def of(kind):
    """The executor of that kind, or what makes it."""
    if kind == "loky":
        pytest.importorskip("loky")
    return EXECUTORS[kind]


def failures(result):
    """What has failed, by key."""
    return {record.key: record.error for record in result.failed}


@KINDS
def test_items_are_executed_in_other_processes(tmp_path, kind):
    """Their results come back in order, and are checkpoints."""
    (tmp_path / "met").mkdir()
    meets = functools.partial(pooled.meets, str(tmp_path / "met"))
    each = Mapped(meets, range(12), executor=of(kind), max_workers=2)
    with engine(tmp_path, each.job) as app:
        run = execute(app)
        assert run.status == "completed", run.error
        pids = list(each.result)
        assert os.getpid() not in pids
        assert len(set(pids)) == 2
        assert app.get_steps(run)[0].items == durably.ItemCounts(12, 0, 0, 12)


@KINDS
def test_what_an_item_raises_is_an_exception_of_its_class_here(tmp_path, kind):
    """Whatever its constructor takes, and whatever its attributes are: no pool breaks by it."""
    result = mapped(tmp_path, pooled.fails, executor=of(kind), max_workers=2, on_failed="return")
    assert list(result) == [n for n in range(20) if n not in {3, 5}]
    errors = failures(result)
    assert [(key, error.type, error.message) for key, error in errors.items()] == [
        (3, "pooled.TwoArgumentsError", "400: bad"),
        (5, "pooled.HoldsALockError", "locked 5"),
    ]
    assert errors[3].notes[0] == "a note"
    traceback = errors[3].traceback
    assert "in fails" in traceback
    assert "raise error" in traceback
    assert "in_child.py" not in traceback


def test_the_exceptions_of_items_can_be_handled_as_those_of_threads(tmp_path):
    """Their class is the same one, their attributes are there, and ``Retry.on`` knows them."""
    error = mapped(tmp_path, pooled.fails, range(4), executor="process", max_workers=1)
    assert isinstance(error, ItemsFailedError)
    (failed,) = error.exceptions
    assert type(failed) is pooled.TwoArgumentsError
    assert failed.code == 400
    path = str(tmp_path / "tried")
    retry = Retry(attempts=2, wait=0, on=pooled.TwoArgumentsError)
    (tmp_path / "2").mkdir()
    assert mapped(
        tmp_path / "2", pooled.fails_once, [path], executor="process", max_workers=1, retry=retry
    ) == ["done"]


@KINDS
def test_a_result_that_cannot_travel_fails_its_item_alone(tmp_path, kind):
    """The error says which item, and what to return; also if it can leave, and not arrive."""
    fn = pooled.returns_what_cannot_travel
    result = mapped(tmp_path, fn, executor=of(kind), on_failed="return")
    errors = failures(result)
    assert len(result) == 18
    assert errors.keys() == {2, 4}
    for key, error in errors.items():
        assert error.type == "durably.SerializationError"
        assert f"result of item {key} cannot travel back" in error.message


@pytest.mark.parametrize("fn", [pooled.killed, pooled.crashes])
@KINDS
def test_an_item_that_kills_its_worker_fails_alone(tmp_path, kind, fn):
    """It is found among those that were in flight, which are executed again; so is its signal."""
    result = mapped(tmp_path, fn, executor=of(kind), max_workers=2, on_failed="return")
    assert list(result) == [n for n in range(20) if n != 7]
    errors = failures(result)
    assert errors.keys() == {7}
    assert errors[7].type == "durably.WorkerDiedError"
    assert ("SIGKILL" if fn is pooled.killed else "SIGSEGV") in errors[7].message


def test_the_chunk_of_a_dead_worker_is_executed_again(tmp_path):
    """Also what had ended in it and was not sent yet; only the item at fault has failed."""
    options = {"executor": "process", "max_workers": 1, "chunk": 5, "on_failed": "return"}
    result = mapped(tmp_path, pooled.killed, range(10), **options)
    assert list(result) == result.keys == [n for n in range(10) if n != 7]
    assert failures(result).keys() == {7}


def test_the_error_of_a_dead_worker_has_its_exit_code(tmp_path):
    """An item that kills its worker raises ``WorkerDiedError``."""
    error = mapped(tmp_path, pooled.killed, [7], executor="process", max_workers=1)
    (failed,) = error.exceptions
    assert isinstance(failed, WorkerDiedError)
    assert failed.exitcode == -9


@pytest.mark.parametrize("kind", ["spawn", "forkserver", "fork", "loky"])
def test_an_executor_that_breaks_ends_the_map(tmp_path, kind):
    """What was in flight is missing, not failed, and is executed by the next start."""
    with of(kind)() as broken:
        each = Mapped(pooled.killed, range(9), executor=broken, max_workers=2, chunk=1)
        with engine(tmp_path, each.job) as app:
            run = execute(app)
            assert isinstance(each.error, ExecutorBrokenError)
            assert "broke with" in str(each.error)
            counts = app.get_steps(run)[0].items
            assert counts.failed == 0
            assert counts.done < 9
            each.fn, each.options["executor"] = pooled.double, "process"
            assert again(app, run).status == "completed"
            assert each.result.keys == list(range(9))
            assert each.result.reused == counts.done


@pytest.mark.parametrize("error", [EOFError, ConnectionResetError, BrokenExecutor])
def test_a_pool_that_cannot_start_workers_is_made_again(tmp_path, error):
    """As one whose fork server is dead; one that never can ends the map."""
    made = []

    def make(limit):
        made.append(Starts(error, always=len(made) < limit))
        return made[-1]

    assert mapped(tmp_path, pooled.double, executor=lambda: make(1)) == [n * 2 for n in range(20)]
    assert len(made) == 2
    (tmp_path / "never").mkdir()
    ended = mapped(tmp_path / "never", pooled.double, executor=lambda: make(99))
    assert isinstance(ended, ExecutorBrokenError)
    assert str(ended).endswith(f"{error.__name__}: no worker")


class Starts(ThreadPoolExecutor):
    """An executor that takes something, or always raises an error."""

    def __init__(self, error, *, always):
        super().__init__(1)
        self.error = error if always else None

    def submit(self, *args, **kwargs):
        if self.error is not None:
            raise self.error("no worker")
        return super().submit(*args, **kwargs)


def test_an_item_that_takes_too_long_is_ended(tmp_path):
    """Its process is, and no other item is executed twice or fails."""
    result = mapped(
        tmp_path,
        pooled.never_ends,
        executor="process",
        max_workers=2,
        timeout=0.5,
        on_failed="return",
    )
    assert list(result) == [n for n in range(20) if n != 3]
    assert {key: error.type for key, error in failures(result).items()} == {
        3: f"durably.{StepTimeoutError.__name__}"
    }


def test_lambdas_closures_and_partials_travel(tmp_path):
    """cloudpickle packs them."""
    pytest.importorskip("cloudpickle")
    more = 5
    assert mapped(tmp_path, lambda n: n + more, [1, 2], executor="process", max_workers=1) == [6, 7]
    (tmp_path / "2").mkdir()
    power = functools.partial(pow, 2)
    assert mapped(tmp_path / "2", power, [1, 2], executor="process", max_workers=1) == [2, 4]


@pytest.mark.parametrize("kind", [*EXECUTORS, "object"])
@pytest.mark.parametrize("is_lazy", [False, True])
def test_an_item_that_cannot_travel_is_rejected(tmp_path, kind, is_lazy):
    """A ``ValidationError`` names its key; of a list nothing is executed before."""
    items = [1, 2, threading.Lock()]
    executor = pooled.spawned() if kind == "object" else of(kind)
    each = Mapped(
        pooled.double,
        iter(items) if is_lazy else items,
        executor=executor,
        key=lambda item: f"<{item}>" if isinstance(item, int) else "the lock",
    )
    with engine(tmp_path, each.job) as app:
        run = execute(app)
        assert isinstance(each.error, ValidationError)
        assert "item 'the lock' cannot travel" in str(each.error)
        if not is_lazy:
            assert app.get_items(run, "m") == []
    if kind == "object":
        executor.shutdown()


def test_a_function_that_cannot_travel_is_rejected(tmp_path):
    """Before anything is executed."""
    lock = threading.Lock()
    error = mapped(tmp_path, lambda item: lock, [1], executor="process")
    assert isinstance(error, ValidationError)
    assert "fn cannot travel to another process" in str(error)


def test_without_loky_processes_are_spawned(tmp_path, monkeypatch):
    """The standard library's way starts them; what cloudpickle is for is rejected then."""
    for package in ("loky", "loky.backend.context", "cloudpickle"):
        monkeypatch.setitem(sys.modules, package, None)
    assert mapped(tmp_path, pooled.double, [1, 2], executor="process", max_workers=2) == [2, 4]
    (tmp_path / "2").mkdir()
    error = mapped(tmp_path / "2", lambda item: item, [1], executor="process")
    assert 'install "durably[process]"' in str(error)


@pytest.mark.parametrize("make", [pooled.threaded, pooled.InTheCaller])
def test_executors_of_this_process_execute_the_function_itself(tmp_path, make):
    """Nothing is pickled, neither items nor the function."""
    locks = [threading.Lock() for _ in range(5)]

    def work(lock):
        return locks.index(lock)

    with make() as executor:
        assert mapped(tmp_path, work, locks, executor=executor, max_workers=2) == list(range(5))


def test_an_executor_is_left_open_and_one_that_a_function_makes_is_shut_down(tmp_path):
    """An executor belongs to its maker."""
    made = []

    def make():
        made.append(ThreadPoolExecutor(1))
        return made[-1]

    with ThreadPoolExecutor(1) as mine:
        assert mapped(tmp_path, abs, [1], executor=mine) == [1]
        assert mine.submit(int).result(GRACE_S) == 0
    (tmp_path / "2").mkdir()
    assert mapped(tmp_path / "2", abs, [1], executor=make) == [1]
    with pytest.raises(RuntimeError, match="after shutdown"):
        made[0].submit(int)
    assert len(made) == 1


def test_a_function_that_makes_no_executor_is_rejected(tmp_path):
    """The error says what it must return."""
    error = mapped(tmp_path, abs, [1], executor=dict)
    assert isinstance(error, ValidationError)
    assert "must return a concurrent.futures.Executor, not dict" in str(error)


@KINDS
def test_an_item_that_asks_to_be_called_later_is(tmp_path, kind):
    """It has failed once less than it was called."""
    path = str(tmp_path / "asked")
    result = mapped(tmp_path, pooled.asks_to_wait, [path], executor=of(kind))
    assert result == ["done"]


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_each_item_of_a_chunk_is_a_checkpoint(tmp_path, chunk):
    """Items that travel together fail alone, and only those are executed again."""
    each = Mapped(pooled.fails, range(300), executor="process", max_workers=2, chunk=chunk)
    with engine(tmp_path, each.job) as app:
        run = execute(app)
        assert app.get_steps(run)[0].items == durably.ItemCounts(298, 2, 0, 300)
        each.fn = pooled.double
        assert again(app, run).status == "completed"
        assert each.result.reused == 298
        assert list(each.result)[:6] == [0, 1, 2, 6, 4, 10]


def test_imap_and_a_single_worker(tmp_path):
    """One process executes all, and records come as they end."""
    seen = []

    def job(step):
        for record in step.imap(
            "m", pooled.pid_of, range(6), executor="process", max_workers=1, ordered=True
        ):
            seen.append(record)

    with engine(tmp_path, job) as app:
        assert execute(app).status == "completed"
    assert [record.key for record in seen] == list(range(6))
    assert len({record.output for record in seen}) == 1


@pytest.mark.parametrize("kind", ["process", "fork"])
def test_items_may_use_processes_of_their_own(tmp_path, kind):
    """A worker is no daemon to the standard library; a forked child that returns is not it."""
    options = {"executor": of(kind), "max_workers": 1, "chunk": 3}
    assert mapped(tmp_path, pooled.starts_a_process, [1], **options) == [0]
    (tmp_path / "forks").mkdir()
    assert mapped(tmp_path / "forks", pooled.forks, range(3), **options) == [1, 1, 1]


@pytest.mark.parametrize("kind", [None, "process", "fork"])
def test_an_item_that_interrupts_itself_ends_the_map(tmp_path, kind):
    """As Ctrl-C does: it is not executed again for ever."""

    @durably.job
    def job(step):
        executor = None if kind is None else of(kind)
        step.map("m", pooled.interrupts_itself, range(5), executor=executor, max_workers=2)

    with engine(tmp_path, job) as app:
        with pytest.raises(KeyboardInterrupt):
            app.run(job)
        assert [item.key for item in app.get_items(app.get_runs()[0], "m", status="failed")] == [3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"executor": "threads"}, 'executor must be "process"'),
        ({"executor": 3}, 'executor must be "process"'),
        ({"chunk": 2}, "leave chunk out"),
        ({"executor": "process", "chunk": 0}, "chunk must be"),
        ({"executor": "process", "chunk": True}, "chunk must be"),
        ({"executor": "process", "chunk": 2, "per_second": 3}, "leave chunk out"),
        ({"executor": "process", "max_workers": 0}, "max_workers must be"),
    ],
)
def test_wrong_options_are_rejected(tmp_path, options, said):
    """Before anything is executed."""
    error = mapped(tmp_path, pooled.double, **options)
    assert isinstance(error, ValidationError)
    assert said in str(error)
