"""The loops of the step context: ``step.map``, ``step.imap`` and ``step.parallel``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

import attrs

from durably._platform.safe_repr import short_repr
from durably._platform.signals import entered_in_job
from durably.errors import ValidationError
from durably.execution.step_part import StepPart
from durably.settings import Duration, OnChange

if TYPE_CHECKING:
    from durably.execution.loops.iterator import ItemIterator
    from durably.execution.loops.loop import Loop
    from durably.execution.loops.options import (
        ExecutorOption,
        LoopArguments,
        OnFailed,
    )
    from durably.execution.loops.results import MapResult
    from durably.execution.pacing import RateLimit
    from durably.settings.retries import Retry

T = TypeVar("T")
Item = TypeVar("Item")
U = TypeVar("U")


class StepLoops(StepPart):
    """The part of the step context that loops over items. A base class of it alone."""

    @overload
    def map(
        self,
        name: str,
        fn: Callable[[Item], T],
        items: Iterable[Item],
        *,
        returns: None = None,
        **options: Unpack[LoopArguments[Item]],
    ) -> MapResult[T]: ...
    @overload
    def map(
        self,
        name: str,
        fn: Callable[[Item], object],
        items: Iterable[Item],
        *,
        returns: type[U],
        **options: Unpack[LoopArguments[Item]],
    ) -> MapResult[U]: ...
    @overload
    def map(
        self,
        name: str,
        fn: Callable[[Item], object],
        items: Iterable[Item],
        *,
        returns: Any,
        **options: Unpack[LoopArguments[Item]],
    ) -> MapResult[Any]: ...
    @entered_in_job
    def map(
        self,
        name: str,
        fn: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        key: Callable[[Any], str | int] | None = None,
        max_workers: int | None = None,
        executor: ExecutorOption = None,
        chunk: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: Any = None,
        per_second: float | RateLimit | None = None,
        max_failures: float | None = None,
        on_failed: OnFailed = "raise",
        max_uncommitted: int = 256,
        total: int | None = None,
        on_change: OnChange | None = None,
        depends_on: Any = None,
    ) -> MapResult[Any]:
        """Call ``fn(item)`` for each item, store each result by the item's key, and return all.

        On a resume, items that have a stored result are not executed again; those that failed or
        are missing are. Each result is committed before it is returned, and a crash repeats
        *max_uncommitted* items at the most. A result is what is decoded from its checkpoint. Blocks
        until all items have ended; usable from any thread.

        Args:
            name: of the step that the map is, unique within the run.
            items: any iterable; it is read in the calling thread, a few items ahead.
            key: ``item -> str | int``, another one for each item. Without it the items are told
                apart by their position, which is right for a list or a file that does not change.
            max_workers: with 1, the default, the items are executed in the calling thread, one
                after the other; with more, on so many threads. With *executor*, how many processes
                there are (one for each processor by default), or how many chunks are submitted at
                once (twice as many as the executor has workers, else 64).
            executor: ``"process"`` for processes of the map's own; a
                ``concurrent.futures.Executor``; or a function without parameters that makes one,
                which is called again if its executor breaks. Items and results travel by pickle,
                except to threads.
            chunk: how many items travel together; by default ever more, up to 50 ms of work.
            retry: how often to call *fn* again after it has raised. An item that waits for its next
                try occupies no thread.
            timeout: seconds (or a ``timedelta``) for each item, a deadline that ``step.check``,
                ``step.sleep`` and ``step.remaining`` know; with ``executor="process"`` the process
                is ended then, and the item has failed (``StepTimeoutError``).
            returns: the type of a result, if *fn* is not annotated, or wrongly.
            per_second: so many begin in a second at the most, tries included; or a ``RateLimit``,
                which several maps may share.
            max_failures: as soon as more than so many have failed (or more than that fraction of
                those that were tried, checked from the 20th on), no further item begins.
            on_failed: ``"return"`` to return the failed ones in ``MapResult.failed``.
            max_uncommitted: how many results may wait to be stored; with 1, each is committed
                before the next item begins in the same thread.
            total: how many items there are, for progress; ``len(items)`` by default.
            on_change: what happens to results of other code than today's: ``"warn"`` uses them
                and warns, also if other items than before are at positions with results;
                ``"ignore"`` uses them; ``"redo"`` executes these items again, each item that is
                another one than before as far as it is JSON-like, and all of them if *depends_on*
                is another one, or if a step before the map was executed since. What comes after
                the map with ``"redo"`` is executed again too. By default as in the job or session.
            depends_on: a JSON-like value that the results depend on beside the items, such as
                ``durably.fingerprint_of(path)``. It means ``on_change="redo"``.

        Raises:
            ItemsFailedError: items have failed; all others were executed and stored before that.
            DuplicateStepError: a step of that name has already completed in this execution.
            ValidationError: an argument is not what it must be, two items have one key, or
                something cannot travel to another process.
            ExecutorBrokenError: the executor can execute nothing any more.
            StopRun: the run was cancelled, interrupted or recovered, or has ended.
            Exception: what *items* or *key* have raised, after what was in progress.

        .. versionadded:: 0.2.0
        """
        return self._loop("step.map", locals()).results()

    @entered_in_job
    def imap(
        self,
        name: str,
        fn: Callable[[Item], object],
        items: Iterable[Item],
        *,
        ordered: bool = False,
        key: Callable[[Item], str | int] | None = None,
        max_workers: int | None = None,
        executor: ExecutorOption = None,
        chunk: int | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        returns: Any = None,
        per_second: float | RateLimit | None = None,
        max_failures: float | None = None,
        on_failed: OnFailed = "raise",
        max_uncommitted: int = 256,
        total: int | None = None,
        on_change: OnChange | None = None,
        depends_on: Any = None,
    ) -> ItemIterator:
        """Return an iterator over the items' records, with their results, as they end.

        It is ``map`` without a list: memory is bounded by what is in flight. The items are executed
        while it is iterated over, also those on threads begin only then. Those that are stored
        already come first, as far as *items* is a list; failed ones are among the records. At the
        end it raises as ``map`` does. Left behind or closed, it stops the map as if interrupted:
        what is stored is kept.

        Args:
            ordered: whether the records come in the order of the items.

        Raises:
            ValidationError: an argument is not what it must be.

        .. versionadded:: 0.2.0
        """
        arguments = locals()
        if not isinstance(ordered, bool):
            raise ValidationError(
                f"step.imap: ordered must be True or False, not {short_repr(ordered)}"
            )
        from durably.execution.loops.iterator import (  # noqa: PLC0415 - where first needed
            ItemIterator,
        )

        return ItemIterator(name, self._loop("step.imap", arguments), self._run, is_ordered=ordered)

    @entered_in_job
    def parallel(
        self, functions: Mapping[str, Callable[[], T]], *, max_workers: int | None = None
    ) -> dict[str, T]:
        """Execute several steps at once; return their results by name, in the order given.

        Each is a step of that name with a checkpoint of its own, as ``run`` would store it, and is
        executed on a thread. Blocks until all have come to their end.

        Args:
            functions: functions without parameters, by the names of their steps.
            max_workers: how many are executed at once; all by default.

        Raises:
            Exception: what the first of those that failed has raised, in the order given; the
                others are its notes.
            ValidationError: an argument is not what it must be; nothing was executed.
            StopRun: the run was cancelled, interrupted or recovered, or has ended.

        .. versionadded:: 0.2.0
        """
        from durably.execution.parallel import Parallel  # noqa: PLC0415 - where first needed

        parallel = Parallel(functions, max_workers, self._run, self._services, self._step_runner)
        return parallel.results()

    def _loop(self, call: str, arguments: dict[str, Any]) -> Loop:
        """Return a map.

        Args:
            arguments: all those of the call, by their names.
        """
        from durably.execution.loops.loop import Loop  # noqa: PLC0415 - where first needed
        from durably.execution.loops.options import (  # noqa: PLC0415 - where first needed
            checked,
        )

        self._run.check()
        given = {name: arguments[name] for name in arguments.keys() - {"self", "ordered"}}
        options = checked(call, codec=self._services.codec, **given)
        options = attrs.evolve(options, on_change=options.on_change or self._step_runner.on_change)
        if options.on_change == "redo":
            self._step_runner.track_layers()
        return Loop(arguments["name"], options, self._run, self._services, self._step_runner)
