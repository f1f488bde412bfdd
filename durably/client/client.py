"""The client: everything that a caller asks of a database, wired together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from durably._platform.clock import Clock
from durably._platform.ids import Ids
from durably.client.answers import Answers
from durably.client.arguments import AnyRun
from durably.client.handles import Handles
from durably.client.query import Reader
from durably.client.submit import Submitter
from durably.client.wait import Waiter
from durably.codec import Codec
from durably.execution.emitter import Emitter
from durably.jobs.registry import JobRegistry

if TYPE_CHECKING:
    from durably.client.by_hand import ByHand
    from durably.client.children import Children
    from durably.client.control import Control
    from durably.client.local_worker import LocalWorker
    from durably.client.questions import Questions
    from durably.client.run_here import Runner
    from durably.client.subscribe import Subscription
    from durably.client.upkeep import Upkeep
    from durably.execution.live import Displays
    from durably.store.api import Store


class Client:
    """Trigger, read, change and wait for the runs of one database. Usable from any thread.

    It starts no thread and stores no owner row: a process may trigger runs and wait for them
    without a worker of its own. What many programs never call is imported by the first call of it.

    Args:
        worker: the worker of the same process, if it has one.
        check: raises if the database cannot be used any more; called by the handles of jobs.
        reader: reads the runs, which this client then answers for.
        displays: displays what calls wait for.
    """

    def __init__(
        self,
        store: Store,
        codec: Codec,
        registry: JobRegistry,
        emitter: Emitter,
        clock: Clock,
        worker: LocalWorker | None = None,
        check: Callable[[], None] | None = None,
        reader: Reader | None = None,
        displays: Displays | None = None,
    ) -> None:
        if displays is None:
            from durably.execution.live import NoDisplays  # noqa: PLC0415 - where first needed

            displays = NoDisplays()
        if worker is None:
            from durably.client.local_worker import NoWorker  # noqa: PLC0415 - where first needed

            worker = NoWorker(store)
        check = store.check_in_place if check is None else check
        self._store = store
        self._codec = codec
        self._emitter = emitter
        self._clock = clock
        self._registry = registry
        self._worker = worker
        self._displays = displays
        self.reader = Reader(store, codec, registry) if reader is None else reader
        self.waiter = Waiter(
            store=store,
            reader=self.reader,
            emitter=emitter,
            worker=worker,
            clock=clock,
            displays=displays,
        )
        self.submitter = Submitter(
            store=store,
            codec=codec,
            emitter=emitter,
            worker=worker,
            clock=clock,
            ids=Ids(clock),
            registry=registry,
            reader=self.reader,
            waiter=self.waiter,
            check=check,
        )
        self.handles = Handles(self.submitter)
        self.answers = Answers(
            check,
            store,
            codec,
            self.reader,
            self.waiter,
            lambda: self.control,
            lambda: self.by_hand,
            worker.flush_log_lines,
        )
        self.reader.answers = self.answers

    @property
    def path(self) -> str:
        """Return what the database is on."""
        return self._store.path

    @property
    def control(self) -> Control:
        """Return what changes runs."""
        from durably.client.control import Control  # noqa: PLC0415 - where first needed

        return Control(
            self._store,
            self._emitter,
            self._clock,
            self._registry,
            self.reader,
            self.submitter,
            self._worker,
        )

    @property
    def by_hand(self) -> ByHand:
        """Return what redoes and forks runs, and sets results."""
        from durably.client.by_hand import ByHand  # noqa: PLC0415 - where first needed

        return ByHand(
            self._store,
            self._emitter,
            self._clock,
            self._codec,
            self.reader,
            self.submitter,
            self._worker,
        )

    @property
    def runner(self) -> Runner:
        """Return what executes a certain run in the calling thread."""
        from durably.client.run_here import Runner  # noqa: PLC0415 - where first needed

        return Runner(
            store=self._store,
            codec=self._codec,
            clock=self._clock,
            reader=self.reader,
            submitter=self.submitter,
            handles=self.handles,
            waiter=self.waiter,
            worker=self._worker,
            displays=self._displays,
        )

    @property
    def children(self) -> Children:
        """Return what triggers and reads runs for the runs that wait for them."""
        from durably.client.children import Children  # noqa: PLC0415 - where first needed

        return Children(
            self._store, self._clock, self._emitter, self.reader, self.submitter, self.handles
        )

    @property
    def questions(self) -> Questions:
        """Return what reads and answers the questions of runs."""
        from durably.client.questions import Questions  # noqa: PLC0415 - where first needed

        return Questions(self._store, self._codec, self._clock)

    @property
    def care(self) -> Upkeep:
        """Return what backs the file up and shrinks it."""
        from durably.client.upkeep import Upkeep  # noqa: PLC0415 - where first needed

        return Upkeep(self._store, self._clock)

    def subscribe(self, run: AnyRun | str) -> Subscription:
        """Return the events of a run from now on."""
        from durably.client.subscribe import Subscription  # noqa: PLC0415 - where first needed

        return Subscription(
            run,
            store=self._store,
            reader=self.reader,
            emitter=self._emitter,
            worker=self._worker,
        )
