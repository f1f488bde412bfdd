"""Execute the items of a map on an executor of ``concurrent.futures``."""

from __future__ import annotations

import contextvars
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any, Final

import attrs

from durably._platform.latch import Latch
from durably._platform.parent import ctrl_c_blocked, kill
from durably._platform.realtime import monotonic
from durably._platform.safe_repr import on_one_line, safe_str, type_name
from durably._platform.signals import deliver, let_through
from durably.errors import ExecutorBrokenError, ValidationError
from durably.execution.loops.in_child import Parcel, begin, execute, is_here
from durably.execution.loops.outside import (
    POLL_S,
    QUICK_AHEAD,
    Entry,
    Outside,
    died,
    packed_function,
)
from durably.execution.loops.workers import Kit

# So many chunks are in flight if the executor does not say how many workers it has.
_MOST_IN_FLIGHT: Final = 64
# So often in a row a new executor may break before an item has ended.
_MOST_BREAKS: Final = 3
_MOST_NAMED: Final = 5
# What dask.distributed raises for a task whose workers have died, several times.
_KILLED_WORKER: Final = "KilledWorker"
_DASK: Final = "distributed"
# The packages of executors that have processes; of those whose futures say if they have begun.
_IN_PROCESSES: Final = frozenset({"concurrent.futures.process", "loky", _DASK, "mpi4py"})
_EXACT: Final = frozenset({"concurrent.futures", "loky"})
# Processes of an executor that was given up end within so long.
_GONE_S: Final = 5.0
_ENDED: Final = {-15: 1, -9: 0.5}  # SIGTERM, and SIGKILL in loky
_PAUSE_S: Final = 0.01


@attrs.define(eq=False, repr=False)
class _Chunk:
    entries: list[Entry]
    began_s: float


class Executors(Outside):
    """Execute items on an executor, or on those that a function makes.

    Args:
        executor: itself, or the function.
        most_in_flight: so many chunks are submitted at once; by default as many as suit it.
    """

    def __init__(
        self, kit: Kit, executor: Executor | Callable[[], object], most_in_flight: int | None
    ) -> None:
        super().__init__(kit, most_in_flight or 2, kit.options.chunk)
        self._given_most = most_in_flight
        self._make = None if isinstance(executor, Executor) else executor
        self._executor: Executor | None = executor if isinstance(executor, Executor) else None
        if self._executor is not None:
            check_executor(self._executor, self._what)
        self._context = contextvars.copy_context()
        self._may_cancel = False
        self._fn = b""
        # Those that are done. The latch wakes the thread for them, and for other things.
        self._done: deque[Future[Any]] = deque()
        self._woken = Latch()
        self._in_flight: dict[Future[Any], _Chunk] = {}
        # What was in flight when the executor broke, in a new one: executed one at a time.
        self._lost: list[Entry] = []
        self._suspects: list[Entry] = []
        self._is_testing = False
        self._processes: list[BaseProcess] = []
        self._manager: Thread | None = None
        self._breaks = 0

    def _open(self) -> None:
        try:
            self._check(self._executor or self._made())
        except BaseException:
            if self._make is not None:
                self._discard(is_killed=True)
            raise

    def _check(self, executor: Executor) -> None:
        """Note what kind of executor it is; raise if something cannot travel to it."""
        _make_workers_end(executor)
        self._is_here = isinstance(executor, ThreadPoolExecutor) or (
            not _is_of(executor, _IN_PROCESSES) and self._stays_here(executor)
        )
        self._may_cancel = _is_of(executor, _EXACT)
        self._most_in_flight = self._given_most or _most_in_flight(executor)
        if self._is_here:
            self.size.fix(1)
        else:
            self._fn = packed_function(self._kit.options)
            self._check_list()

    def _made(self) -> Executor:
        assert self._make is not None  # noqa: S101 - there is a function or an executor
        executor = let_through(self._make)
        if not isinstance(executor, Executor):
            raise ValidationError(
                f"{self._what}: the function that is passed as executor must return a "
                f"concurrent.futures.Executor, not {type_name(executor)}"
            )
        self._executor = executor
        check_executor(executor, self._what)
        return executor

    def _stays_here(self, executor: Executor) -> bool:
        """Return whether an executor of an unknown kind executes its work in this process."""
        future = executor.submit(is_here, Parcel(_nothing, b"", (), os.getpid()))
        while not future.done():
            wait((future,), POLL_S)
            deliver()
            self._kit.runner.check()
        return bool(future.result())

    def _notify(self) -> None:
        self._woken.set()

    # -- handing out -----------------------------------------------------------------------------

    def _hand_out(self) -> None:
        pace = self._kit.pace
        if self._may_cancel and self._in_flight and pace.not_before_s > pace.now_s():
            self._cancel()
            return
        if self._lost and not self._in_flight:
            self._replace()
        if self._lost:
            return
        if self._suspects:
            if not self._in_flight and self._may_begin(is_there=True):
                self._is_testing = True
                self._submit([self._suspects.pop(0)])
            return
        while len(self._in_flight) < self._most_chunks() and self._may_begin():
            if not self._submit(self._next_chunk(self.size.items)):
                return

    def _most_chunks(self) -> int:
        """Return how many chunks may be in flight: more of quick items, if they can be cancelled.

        Handing out each of them when another one comes back takes longer than they do.
        """
        if self._given_most is None and self._may_cancel and self.size.is_quick:
            return max(self._most_in_flight, QUICK_AHEAD // self.size.items)
        return self._most_in_flight

    def _submit(self, entries: list[Entry]) -> bool:
        """Submit a chunk; return whether the executor takes it."""
        here = (lambda: self._execute_here(entries)) if self._is_here else None
        parcel = Parcel(here, self._fn, [data for _, data in entries], os.getpid())
        assert self._executor is not None  # noqa: S101 - it was opened
        try:
            # Which may start a process; a program that a thread starts is to end by a Ctrl-C.
            with nullcontext() if self._is_here else ctrl_c_blocked():
                future = self._executor.submit(execute, parcel)
        except Exception as exc:  # noqa: BLE001 - whatever an executor raises that takes nothing
            self._lose(entries, exc)
            return False
        self._in_flight[future] = _Chunk(entries, monotonic())
        if self._is_testing:
            self._processes = _processes_of(self._executor)  # it forgets one that has died
            self._manager = getattr(self._executor, "_executor_manager_thread", None)
        future.add_done_callback(self._note_done)
        return True

    def _note_done(self, future: Future[Any]) -> None:
        """Note that a chunk is done; called in a thread of the executor.

        Of items that take less time than a change of threads, half are waited for.
        """
        self._done.append(future)
        if not self.size.is_quick or 2 * len(self._done) >= len(self._in_flight):
            self._woken.set()

    def _execute_here(self, entries: Sequence[Entry]) -> None:
        """Execute a chunk in a thread of an executor in this process."""
        self._context.copy().run(self._execute_in_context, entries)

    def _execute_in_context(self, entries: Sequence[Entry]) -> None:
        kit = self._kit
        for task, _ in entries:
            if not kit.ending.is_set() and kit.runner.execute(task):
                kit.committer.add(task)
            else:
                kit.go_back(task)

    # -- taking back -----------------------------------------------------------------------------

    def _await_something(self, timeout_s: float) -> None:
        self._woken.wait(timeout_s)
        self._woken.clear()  # before the check: what comes from now on ends the next wait
        while self._done:
            future = self._done.popleft()
            if future in self._in_flight:
                self._receive(future, self._in_flight.pop(future))
        self._ask_for_more()

    def _receive(self, future: Future[Any], chunk: _Chunk) -> None:
        entries = chunk.entries
        if future.cancelled():
            self._is_testing = False
            self._requeue(entries)
            return
        exc = future.exception()
        if exc is not None:
            self._take_broken(chunk, exc)
            return
        outcomes = future.result()
        self._breaks = 0
        self._is_testing = False
        if outcomes is None:  # executed here
            self._items_out -= len(entries)
            return
        self.size.note(len(outcomes), sum(outcome[2] for outcome in outcomes))
        self.take(entries, outcomes)
        self._requeue(entries[len(outcomes) :])

    def _take_broken(self, chunk: _Chunk, exc: BaseException) -> None:
        entries = chunk.entries
        is_killed = type(exc).__name__ == _KILLED_WORKER
        if is_killed and len(entries) > 1:
            self._suspects += entries
        elif is_killed or (isinstance(exc, BrokenExecutor) and self._is_testing and self._make):
            self._is_testing = False
            error = died(entries[0][0], None if is_killed else self._exitcode())
            error.__cause__ = exc
            self.take_failure(entries[0][0], error, monotonic() - chunk.began_s)
            if not is_killed:
                self._renew()
        elif self._is_here:
            self._items_out -= len(entries)
            self.fail(exc)
        else:
            self._lose(entries, exc)

    # -- an executor that is broken --------------------------------------------------------------

    def _lose(self, entries: list[Entry], exc: BaseException) -> None:
        """Note what was in flight when the executor broke."""
        self._is_testing = False
        self._lost += entries
        self._breaks += not self._in_flight
        # A pool whose fork server is dead cannot report that otherwise.
        is_broken = isinstance(exc, (BrokenExecutor, EOFError, OSError))
        if self._make is not None and is_broken and self._breaks < _MOST_BREAKS:
            return
        runner = self._kit.runner
        runner.await_stop(exc)
        in_flight = [*self._lost, *(e for each in self._in_flight.values() for e in each.entries)]
        keys = ", ".join(f"{task.key!r:.40}" for task, _ in in_flight[:_MOST_NAMED])
        more = ", ..." if len(in_flight) > _MOST_NAMED else ""
        advice = "; pass a function that makes the executor, which is called again then"
        error = ExecutorBrokenError(
            f"{self._what}: the executor broke with {len(in_flight):,} items in flight "
            f"({keys}{more}): {type(exc).__qualname__}: {on_one_line(safe_str(exc), 200)}"
            f"{advice if self._make is None else ''}"
        )
        error.__cause__ = exc
        self._requeue(self._lost)
        self._lost = []
        self.fail(error)

    def _replace(self) -> None:
        """Make another executor, to execute one at a time what was in flight in the broken one."""
        self._suspects += self._lost
        self._lost = []
        self._renew()

    def _renew(self) -> None:
        self._discard(is_killed=True)
        _make_workers_end(self._made())

    def _exitcode(self) -> int | None:
        """Return how the worker that has died first has ended, if the executor knows it."""
        ends_s = monotonic() + _GONE_S
        if self._manager is not None:
            # It waits for them, too. With a fork server one of two who do so gets a wrong code.
            self._manager.join(_GONE_S)
        codes: list[int | None] = []
        for process in self._processes:
            with suppress(ValueError, AssertionError):  # it was closed, or is of another process
                while process.exitcode is None and monotonic() < ends_s:
                    process.join(_PAUSE_S)
                codes.append(process.exitcode)
        # The executor itself has ended the others, in one of these ways.
        found = sorted((code for code in codes if code), key=lambda code: _ENDED.get(code, 0))
        return found[0] if found else None

    # -- ending ----------------------------------------------------------------------------------

    def _stop_early(self) -> None:
        self._requeue(self._suspects)
        self._suspects = []
        if not self._in_flight:
            self._requeue(self._lost)
            self._lost = []
        if self._may_cancel:
            self._cancel()
        self._give_back_todo()

    def _cancel(self) -> None:
        for future in list(self._in_flight):
            future.cancel()

    def _close(self) -> None:
        left = [*self._lost, *self._suspects]
        for future, chunk in self._in_flight.items():
            future.cancel()
            left += chunk.entries
        self._requeue(left)
        if self._make is not None:
            self._discard(is_killed=self._is_abrupt or self.failure is not None)

    def _discard(self, *, is_killed: bool) -> None:
        """End an executor that a function has made."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        processes = _processes_of(executor)
        executor.shutdown(wait=not is_killed)
        for process in processes if is_killed else ():
            with suppress(ValueError, AssertionError):  # it was closed, or is of another process
                if process.exitcode is None and process.pid is not None:
                    with suppress(ProcessLookupError):
                        kill(process.pid)


def check_executor(executor: Executor, what: str) -> None:
    """Raise ``ValidationError`` for an executor that executes equal items once."""
    options = getattr(executor, "_kwargs", None)
    if _is_of(executor, {_DASK}) and isinstance(options, dict) and options.get("pure") is not False:
        raise ValidationError(
            f"{what}: this executor of Dask executes equal items only once; "
            "write client.get_executor(pure=False)"
        )


def _make_workers_end(executor: Executor) -> None:
    """Make the workers that a pool starts from now on end with this process, also idle ones.

    Those of other kinds do from their first chunk on.
    """
    initializer, args = (
        getattr(executor, "_initializer", None),
        getattr(executor, "_initargs", None),
    )
    is_pool = _is_of(executor, _IN_PROCESSES) and not _is_of(executor, {_DASK})
    if is_pool and isinstance(args, tuple) and initializer is not begin:
        executor._initializer = begin  # type: ignore[attr-defined]  # noqa: SLF001 - a pool says it nowhere else
        executor._initargs = (os.getpid(), initializer, args)  # type: ignore[attr-defined]  # noqa: SLF001 - as above
        tracker = sys.modules.get("multiprocessing.resource_tracker")
        if tracker is not None:
            tracker.ensure_running()  # its start ends the blocking of a Ctrl-C


def _is_of(executor: Executor, packages: Any) -> bool:
    """Return whether the class of an executor, or one that it is derived from, is of a package."""
    return any(
        cls.__module__ == package or cls.__module__.startswith(f"{package}.")
        for cls in type(executor).__mro__
        for package in packages
        if cls is not Executor
    )


def _most_in_flight(executor: Executor) -> int:
    workers = getattr(executor, "_max_workers", None)
    if workers is None and _is_of(executor, {_DASK}):
        workers = sum(executor._client.nthreads().values())  # type: ignore[attr-defined]  # noqa: SLF001 - it says it nowhere else
    return 2 * workers if isinstance(workers, int) and workers > 0 else _MOST_IN_FLIGHT


def _processes_of(executor: Executor | None) -> list[BaseProcess]:
    processes = getattr(executor, "_processes", None)
    if not isinstance(processes, dict):
        return []
    return [each for each in processes.copy().values() if isinstance(each, BaseProcess)]


def _nothing() -> None:
    """Do nothing."""
