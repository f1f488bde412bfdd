"""The client: everything that a caller asks of a database, wired together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from durably._platform.clock import Clock
from durably._platform.ids import Ids
from durably.client.answers import Answers
from durably.client.arguments import AnyRun
from durably.client.attempts import AttemptReader
from durably.client.by_hand import ByHand
from durably.client.children import Children
from durably.client.control import Control
from durably.client.handles import Handles
from durably.client.items import ItemReader
from durably.client.local_worker import LocalWorker, NoWorker
from durably.client.query import Reader
from durably.client.questions import Questions
from durably.client.run_here import Runner
from durably.client.submit import Submitter
from durably.client.upkeep import Upkeep
from durably.client.wait import Waiter
from durably.codec import Codec
from durably.execution.emitter import Emitter
from durably.execution.live import Displays, NoDisplays
from durably.jobs.registry import JobRegistry
from durably.store.api import Store

if TYPE_CHECKING:
    from durably.client.subscribe import Subscription


class Client:
    """Trigger, read, change and wait for the runs of one database. Usable from any thread.

    It starts no thread and stores no owner row: a process may trigger runs and wait for them
    without a worker of its own.

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
        displays = NoDisplays() if displays is None else displays
        worker = NoWorker(store) if worker is None else worker
        check = store.check_in_place if check is None else check
        self._store = store
        self._emitter = emitter
        self._worker = worker
        self.reader = Reader(store, codec, registry) if reader is None else reader
        self.items = ItemReader(store, codec, self.reader)
        self.attempts = AttemptReader(store, self.reader)
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
        self.runner = Runner(
            store=store,
            codec=codec,
            clock=clock,
            reader=self.reader,
            submitter=self.submitter,
            handles=self.handles,
            waiter=self.waiter,
            worker=worker,
            displays=displays,
        )
        self.care = Upkeep(store, clock)
        self.children = Children(store, clock, emitter, self.reader, self.submitter, self.handles)
        self.questions = Questions(store, codec, clock)
        self.control = Control(store, emitter, clock, registry, self.reader, self.submitter, worker)
        self.by_hand = ByHand(store, emitter, clock, self.reader, worker)
        self.answers = Answers(
            check,
            store,
            self.reader,
            self.items,
            self.attempts,
            self.waiter,
            self.control,
            self.by_hand,
            worker.flush_log_lines,
        )
        self.reader.answers = self.answers

    @property
    def path(self) -> str:
        """Return what the database is on."""
        return self._store.path

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
