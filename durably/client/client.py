"""The client: everything that a caller asks of a database, wired together."""

from __future__ import annotations

from collections.abc import Callable

from durably._platform.clock import Clock
from durably.client.control import Control
from durably.client.handles import Handles
from durably.client.local_worker import LocalWorker
from durably.client.query import AnyRun, Reader
from durably.client.submit import Triggering
from durably.client.subscribe import Subscription
from durably.client.wait import Waiter
from durably.codec import Codec
from durably.emitter import Emitter
from durably.job_registry import JobRegistry
from durably.store.api import Store


class Client:
    """Triggers, reads, changes and waits for the runs of one database. Usable from any thread.

    It starts no thread and stores no owner row: a process may trigger runs and wait for them
    without a worker of its own.

    Args:
        check: raises if the engine cannot be used any more; called by the handles of jobs.
        worker: the worker of the same process, if it has one.
    """

    def __init__(
        self,
        store: Store,
        codec: Codec,
        registry: JobRegistry,
        emitter: Emitter,
        clock: Clock,
        worker: LocalWorker,
        check: Callable[[], None],
    ) -> None:
        self._store = store
        self._emitter = emitter
        self._worker = worker
        self.reader = Reader(store, codec, registry)
        self.waiter = Waiter(
            store=store,
            reader=self.reader,
            emitter=emitter,
            changes=store.changes,
            worker=worker,
            clock=clock,
        )
        self.triggering = Triggering(
            store=store,
            codec=codec,
            emitter=emitter,
            changes=store.changes,
            registry=registry,
            reader=self.reader,
            waiter=self.waiter,
            worker=worker,
            clock=clock,
            check=check,
        )
        self.handles = Handles(self.triggering)
        self.control = Control(
            store, emitter, clock, registry, self.reader, self.triggering, worker
        )

    def subscribe(self, run: AnyRun | str) -> Subscription:
        """Return the events of a run from now on."""
        return Subscription(
            run,
            store=self._store,
            reader=self.reader,
            emitter=self._emitter,
            worker=self._worker,
        )
