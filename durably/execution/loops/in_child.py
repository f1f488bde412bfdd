"""What a worker process does: execute chunks of items, and return what has become of them as data.

Nothing that an item raises reaches the pool: an exception that cannot be unpickled would break it.
This module and what it imports need nothing of the engine.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import current_process
from multiprocessing.connection import Connection
from typing import Any, Final, NoReturn

from durably._platform.parent import end_with_parent, ignore_ctrl_c
from durably._platform.realtime import monotonic
from durably.errors import RetryAfter
from durably.execution.loops.travel import dumps, loads, pack_exception

# What has become of an item.
RETURNED: Final = 0
RAISED: Final = 1
UNSENDABLE: Final = 2  # its result cannot travel
INTERRUPTED: Final = 3  # the terminal's Ctrl-C ended it
UNLOADABLE: Final = 4  # the function cannot be loaded here

# Results are sent so often, and it is checked so often whether to stop.
_PERIOD_S: Final = 0.02


# What has become of an item: one of these, the pickled result or exception, and the seconds.
Outcome = tuple[int, bytes, float]


class Parcel:
    """A chunk of items on its way to an executor.

    Args:
        here: executes the chunk, if it has not left this process.
        fn: the pickled function.
        items: pickled, too.
        parent: the id of the process that it comes from.
    """

    __slots__ = ("fn", "here", "items", "parent")

    def __init__(
        self, here: Callable[[], None] | None, fn: bytes, items: Sequence[bytes], parent: int
    ) -> None:
        self.here = here
        self.fn = fn
        self.items = items
        self.parent = parent

    def __reduce__(self) -> tuple[Any, ...]:
        return Parcel, (None, self.fn, self.items, self.parent)


def execute(parcel: Parcel) -> list[Outcome] | None:
    """Execute a chunk. This is what is submitted to an executor, of whatever kind it is.

    Return what has become of its items, in their order; of fewer if no further one is to begin.
    Return ``None`` if it was executed in the process that it comes from.
    """
    if parcel.here is not None:
        parcel.here()
        return None
    ignore_ctrl_c()
    end_with_parent(parcel.parent)
    try:
        fn = _function(parcel.fn)
    except BaseException as exc:  # noqa: BLE001 - whatever the user's modules raise
        return [(UNLOADABLE, pack_exception(exc), 0.0)]
    return list(outcomes(fn, parcel.items))


def begin(parent: int, initializer: Callable[..., object] | None, args: Sequence[Any]) -> None:
    """Do what each worker of a pool does first: end with its parent, also if it gets no item."""
    ignore_ctrl_c()
    end_with_parent(parent)
    if initializer is not None:
        initializer(*args)


# The last function, by its bytes: each chunk brings them.
_last: list[Any] = [None, None]


def _function(data: bytes) -> Callable[[Any], Any]:
    last = tuple(_last)
    if last[0] != data:
        last = data, loads(data)
        _last[:] = last
    fn: Callable[[Any], Any] = last[1]
    return fn


def is_here(parcel: Parcel) -> bool:
    """Return whether it is executed in the process that *parcel* comes from."""
    return parcel.here is not None


def outcomes(fn: Callable[[Any], Any], items: Sequence[bytes]) -> Iterator[Outcome]:
    """Execute items one after the other; none after one that asks to be called again later."""
    pid = os.getpid()
    for each in items:
        began_s = monotonic()
        is_last = False
        try:
            value = fn(loads(each))
        except KeyboardInterrupt:
            kind, data, is_last = INTERRUPTED, b"", True
        except BaseException as exc:  # noqa: BLE001 - whatever an item raises is its outcome
            kind, data, is_last = RAISED, pack_exception(exc), isinstance(exc, RetryAfter)
        else:
            kind, data = _packed(value)
        if os.getpid() != pid:
            _end_forked_child()
        yield kind, data, monotonic() - began_s
        if is_last:
            return


def _end_forked_child() -> NoReturn:
    """End a child that an item has forked: it is a second copy of the worker, with its pipes."""
    sys.stderr.write(
        "a child that an item of a map has forked has left the item's function; end it with "
        "os._exit, or use subprocess\n"
    )
    sys.stderr.flush()
    os._exit(1)


def _packed(value: Any) -> tuple[int, bytes]:
    """Return a result as bytes: what cannot travel is found before it leaves."""
    try:
        return RETURNED, dumps(value)
    except Exception as exc:  # noqa: BLE001 - whatever the code of a result's class raises
        return UNSENDABLE, pack_exception(exc)


# -- a process of the map's own ------------------------------------------------------------------

READY: Final = b"ready"
STOP: Final = b""


def serve(
    connection: Connection,
    parent: int,
    fn: bytes,
    *,
    start_method: str | None,
    is_each_sent: bool,
) -> None:
    """Execute chunks that come through *connection*, until it is closed.

    Args:
        start_method: how items that have children start them: as the parent of this process does,
            and not as it was started itself.
        is_each_sent: whether each outcome is sent at once: the parent measures how long an item is
            in progress.
    """
    current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # noqa: SLF001 - items may have children
    multiprocessing.set_start_method(start_method, force=True)
    ignore_ctrl_c()
    end_with_parent(parent, is_killed=True)
    try:
        function = loads(fn)
    except BaseException as exc:  # noqa: BLE001 - whatever the user's modules raise
        connection.send([(UNLOADABLE, pack_exception(exc), 0.0)])
        return
    server = _Server(connection, function, 0.0 if is_each_sent else _PERIOD_S)
    try:
        connection.send_bytes(READY)
        while (chunk := server.next_chunk()) is not None:
            server.execute(chunk)
    except (EOFError, OSError):
        return  # the parent has ended


class _Server:
    def __init__(self, connection: Connection, fn: Callable[[Any], Any], period_s: float) -> None:
        self._connection = connection
        self._fn = fn
        self._period_s = period_s
        self._checked_s = monotonic()
        self._next: bytes | None = None

    def next_chunk(self) -> list[bytes] | None:
        """Wait for the next chunk; return ``None`` after the last one."""
        message = self._connection.recv_bytes() if self._next is None else self._next
        self._next = None
        return None if message == STOP else loads(message)

    def execute(self, chunk: list[bytes]) -> None:
        """Execute a chunk; send outcomes now and then, and an empty list after the last one."""
        done: list[Outcome] = []
        connection = self._connection
        self._checked_s = monotonic()
        for outcome in outcomes(self._fn, chunk):
            done.append(outcome)
            if monotonic() - self._checked_s < self._period_s:
                continue
            connection.send(done)
            done = []
            self._checked_s = monotonic()
            if self._next is None and connection.poll():
                self._next = connection.recv_bytes()
            if self._next == STOP:
                break
        connection.send([*done, None])
