"""What a worker process does with a chunk of items, here in this process."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe, current_process
from multiprocessing.connection import Connection
from typing import Any

import pooled
import pytest

from durably import RetryAfter
from durably.execution.loops import in_child
from durably.execution.loops.in_child import (
    INTERRUPTED,
    RAISED,
    READY,
    RETURNED,
    STOP,
    UNLOADABLE,
    UNSENDABLE,
    Parcel,
    begin,
    execute,
    is_here,
    outcomes,
    serve,
)
from durably.execution.loops.travel import dumps, loads, unpack_exception

GRACE_S = 10.0  # only guards against hanging


@pytest.fixture(autouse=True)
def sigint() -> Iterator[None]:
    """A worker ignores Ctrl-C; this process does so no longer than a test."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def parcel(fn: Callable[[Any], Any], *items: Any) -> Parcel:
    """A chunk as an executor delivers it to a worker."""
    return Parcel(None, dumps(fn), [dumps(each) for each in items], os.getpid())


def raises(item: Any) -> Any:
    """Raise the item if it is an exception."""
    if isinstance(item, BaseException):
        raise item
    return item


class Unloadable:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_a_chunk_that_stays_in_its_process_is_executed_by_it() -> None:
    """It travels without what executes it, so that another process executes its items."""
    executed: list[str] = []
    stays = Parcel(lambda: executed.append("here"), dumps(pooled.double), [dumps(4)], os.getpid())
    assert is_here(stays)
    assert execute(stays) is None
    assert executed == ["here"]
    travelled = pickle.loads(pickle.dumps(stays))
    assert not is_here(travelled)
    ((kind, data, _),) = execute(travelled) or ()
    assert (kind, loads(data), executed) == (RETURNED, 8, ["here"])


def test_what_has_become_of_each_item_is_data() -> None:
    """Whatever it returns or raises, and in the order of the items; the others are executed."""
    items = [1, ValueError("v"), threading.Lock, SystemExit(3), pooled.TwoArgumentsError, 6]
    done = execute(parcel(pooled.returns_or_raises, *items))
    assert done is not None
    kinds = [kind for kind, _, _ in done]
    assert kinds == [RETURNED, RAISED, UNSENDABLE, RAISED, RAISED, RETURNED]
    values = [
        loads(data) if kind == RETURNED else repr(unpack_exception(data)) for kind, data, _ in done
    ]
    assert values[:2] == [1, "ValueError('v')"]
    assert "lock" in values[2]
    assert values[3:] == ["SystemExit(3)", "TwoArgumentsError('400: bad')", 6]
    assert all(seconds >= 0 for _, _, seconds in done)


def test_an_item_that_cannot_be_loaded_has_failed_alone() -> None:
    """The other items are executed, as after one whose function raises."""
    done = list(outcomes(raises, [dumps(1), dumps(Unloadable()), dumps(3)]))
    assert [kind for kind, _, _ in done] == [RETURNED, RAISED, RETURNED]
    assert "no number" in str(unpack_exception(done[1][1]))


@pytest.mark.parametrize(
    ("exc", "kind"), [(KeyboardInterrupt(), INTERRUPTED), (RetryAfter(1), RAISED)]
)
def test_no_item_begins_after_one_that_stops_the_map(exc: BaseException, kind: int) -> None:
    """The chunk comes back with those that have ended; the others are to be executed again."""
    done = execute(parcel(raises, 1, exc, 3))
    assert done is not None
    assert [each[0] for each in done] == [RETURNED, kind]
    if kind == RAISED:
        assert type(unpack_exception(done[1][1])) is RetryAfter


def test_a_function_that_cannot_be_loaded_is_said_once() -> None:
    """No item is at fault."""
    done = execute(Parcel(None, dumps(Unloadable()), [dumps(1), dumps(2)], os.getpid()))
    assert done is not None
    ((kind, data, _),) = done
    assert kind == UNLOADABLE
    assert "no number" in str(unpack_exception(data))


def test_a_function_is_loaded_once_for_all_of_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it keeps between calls, such as a model, is not loaded again with each chunk."""
    loaded: list[bytes] = []

    def load(data: bytes) -> Any:
        loaded.append(data)
        return loads(data)

    monkeypatch.setattr(in_child, "loads", load)
    items = [dumps(n) for n in range(2)]
    for fn in (pooled.double, pooled.double, raises, raises):
        execute(Parcel(None, dumps(fn), items, os.getpid()))
    assert loaded.count(dumps(pooled.double)) == 1
    assert loaded.count(dumps(raises)) == 1


def test_a_worker_of_a_pool_calls_the_pools_own_initializer() -> None:
    """A Ctrl-C does nothing in it."""
    called: list[Any] = []
    begin(os.getpid(), lambda *args: called.append(args), ("a", 2))
    assert called == [("a", 2)]
    os.kill(os.getpid(), signal.SIGINT)
    begin(os.getpid(), None, ())
    assert signal.getsignal(signal.SIGINT) not in {signal.SIG_IGN, signal.default_int_handler}


# -- a process of the map's own ------------------------------------------------------------------


@contextmanager
def serving(fn: bytes, *, is_each_sent: bool = False) -> Iterator[Connection]:
    """A worker in a thread, and the parent's end of its pipe."""
    here, there = Pipe()
    daemon = current_process()._config.get("daemon")

    def work() -> None:
        with there:  # which a process that ends closes
            serve(there, os.getpid(), fn, start_method=None, is_each_sent=is_each_sent)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield here
    finally:
        here.close()
        thread.join(GRACE_S)
        current_process()._config["daemon"] = daemon
        assert not thread.is_alive()


def received(connection: Connection) -> Any:
    assert connection.poll(GRACE_S)
    return connection.recv()


def send(connection: Connection, *items: Any) -> None:
    connection.send_bytes(dumps([dumps(each) for each in items]))


def chunk_from(connection: Connection) -> tuple[list[Any], int]:
    """What the results of a chunk are, and in how many messages they have come."""
    done: list[Any] = []
    messages = 0
    while not done or done[-1] is not None:
        done += received(connection)
        messages += 1
    return [loads(data) for _, data, _ in done[:-1]], messages


def test_a_worker_executes_chunks_until_it_is_told_to_stop() -> None:
    """It says when it is ready, and the results of quick items come back together."""
    with serving(dumps(pooled.double)) as connection:
        assert connection.recv_bytes() == READY
        assert current_process().daemon is False  # items may have children
        for start in (0, 10):
            send(connection, *range(start, start + 3))
            values, messages = chunk_from(connection)
            assert values == [2 * n for n in range(start, start + 3)]
            assert messages <= 2
        connection.send_bytes(STOP)
        with pytest.raises(EOFError):
            connection.recv_bytes()


def test_a_worker_whose_items_have_a_timeout_sends_each_at_once() -> None:
    """The parent knows when an item has begun."""
    with serving(dumps(pooled.double), is_each_sent=True) as connection:
        assert connection.recv_bytes() == READY
        send(connection, 1, 2, 3)
        assert chunk_from(connection) == ([2, 4, 6], 4)


class Held:
    """Items of which some wait until a test lets them end."""

    def __init__(self, *held: int) -> None:
        self.executed: list[int] = []
        self.entered = {item: threading.Event() for item in held}
        self.released = {item: threading.Event() for item in held}

    def execute(self, item: int) -> int:
        self.executed.append(item)
        if item in self.entered:
            self.entered[item].set()
            assert self.released[item].wait(GRACE_S)
        return item


held: list[Held] = []


def execute_held(item: int) -> int:
    """Travel by reference, so that the test and the worker share what is held."""
    return held[0].execute(item)


def test_a_worker_stops_in_the_middle_of_a_chunk() -> None:
    """After the item that it is in; a chunk that has come meanwhile is executed next."""
    each = Held(1, 4)
    held[:] = [each]
    with serving(dumps(execute_held), is_each_sent=True) as connection:
        assert connection.recv_bytes() == READY
        send(connection, 1, 2)
        assert each.entered[1].wait(GRACE_S)
        send(connection, 3, 4, 5)
        each.released[1].set()
        assert chunk_from(connection)[0] == [1, 2]
        assert each.entered[4].wait(GRACE_S)
        connection.send_bytes(STOP)
        each.released[4].set()
        assert chunk_from(connection)[0] == [3, 4]
        with pytest.raises(EOFError):
            connection.recv_bytes()
    assert each.executed == [1, 2, 3, 4]


def test_a_worker_that_cannot_load_the_function_says_so_and_ends() -> None:
    """Before it says that it is ready."""
    with serving(dumps(Unloadable())) as connection:
        ((kind, data, _),) = received(connection)
        assert kind == UNLOADABLE
        assert "no number" in str(unpack_exception(data))


def test_a_worker_ends_when_its_pipe_is_closed() -> None:
    """While it waits for a chunk, and while it sends results."""
    with serving(dumps(pooled.double)) as connection:
        assert connection.recv_bytes() == READY
    with serving(dumps(pooled.double)) as connection:
        send(connection, *range(100))
