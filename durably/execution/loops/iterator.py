"""The records of a map's items, one after the other, as they end."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from typing import Final, Self

from durably._platform.signals import entered_in_job, shorten
from durably.errors import ConflictError
from durably.execution.current_run import CurrentRun
from durably.execution.iterations import Iteration
from durably.execution.loops.loop import Loop
from durably.execution.loops.results import positions_of, records_of
from durably.models.records import ItemRecord

# So many items begin ahead of the next one in order if nothing says how many are in progress.
_MOST_IN_FLIGHT: Final = 64


class ItemIterator(Iterator[ItemRecord]):
    """An iterator over the items of a map, which executes them while it is iterated over.

    Once it is left behind, closed, or its run is over, no further item begins.

    .. versionadded:: 0.2.0
    """

    def __init__(self, name: str, loop: Loop, run: CurrentRun, *, is_ordered: bool) -> None:
        self._name = name
        self._run = run
        self._iteration = Iteration(_records(loop, is_ordered=is_ordered))
        # What has ended together: to hand it out takes a third of the time of another wait.
        self._ended: Iterator[ItemRecord] = iter(())
        itself = weakref.ref(self)

        def close() -> None:
            iterator = itself()
            if iterator is not None:
                iterator.close()

        run.at_end.append(close)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ItemRecord:
        try:
            for record in self._ended:
                return record
            return self._await_next()
        except BaseException as exc:
            shorten(exc)
            raise

    @entered_in_job
    def _await_next(self) -> ItemRecord:
        """Return the next record, after those that have ended together with the last one."""
        iteration = self._iteration
        if iteration.has_given_way:
            raise ConflictError(
                f"another loop over step {self._name!r} of run {self._run.id} has begun since; "
                "give each loop a name of its own"
            )
        while True:
            ended = next(iteration.batches)
            if not iteration.has_begun:
                self._run.iterations.begin(self._name, iteration)
            for record in ended:
                self._ended = ended
                return record

    def close(self) -> None:
        """Begin no further item, and store those in progress. Idempotent.

        .. versionadded:: 0.2.0
        """
        self._ended = iter(())
        with suppress(ValueError):  # another thread iterates
            self._iteration.batches.close()


def _records(loop: Loop, *, is_ordered: bool) -> Generator[Iterator[ItemRecord]]:
    """Yield the records of the items as they end, or in the order of the items; some at a time.

    In order, items begin only so far ahead of the next record that memory stays bounded.
    """
    loop.is_iterated = True
    if not is_ordered:
        with closing(loop.batches(stored_first=True)) as batches:
            for batch in batches:
                yield records_of(batch)
        return
    options = loop.options
    ahead = 2 * (options.max_workers or _MOST_IN_FLIGHT) + 2 + options.max_uncommitted
    waiting: dict[int, ItemRecord] = {}
    # The position of the record that is yielded next.
    following = 0
    with closing(loop.batches(lambda position: position < following + ahead)) as batches:
        for batch in batches:
            waiting |= zip(positions_of(batch), records_of(batch), strict=True)
            ended = []
            while following in waiting:
                ended.append(waiting.pop(following))
                following += 1
            yield iter(ended)
