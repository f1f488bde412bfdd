"""The wiring of an engine: opens its file, makes its parts and connects them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from durably._platform.clock import Clock
from durably._platform.signals import deliver
from durably.client.client import Client
from durably.client.failed_runs import FailedRuns
from durably.client.query import Reader, labels_of
from durably.codec import Codec
from durably.emitter import Emitter
from durably.job_registry import JobRegistry
from durably.jobs import Job, job_list
from durably.settings import Settings
from durably.store.sqlite.opening import open_store
from durably.store.sqlite.store import SqliteStore
from durably.worker.exit import at_exit
from durably.worker.open_engines import enter, make_way
from durably.worker.shutdown import Shutdown
from durably.worker.supervisor import Supervisor

if TYPE_CHECKING:
    import cattrs


class Parts(NamedTuple):
    """What the calls of one engine use."""

    emitter: Emitter
    store: SqliteStore
    supervisor: Supervisor
    shutdown: Shutdown
    client: Client


def open_parts(
    path: str | os.PathLike[str] | None,
    jobs: Iterable[Job[Any, Any]],
    converter: cattrs.Converter | None,
    settings: Settings,
) -> Parts:
    """Open the file, and return the parts of an engine on it, which is known to this process.

    The file is closed again if anything raises: the caller has no engine to close.
    """
    codec, clock = Codec(converter), Clock()
    # Before the file is touched: a bad spec must not leave one behind.
    registry = JobRegistry(codec, job_list(jobs))
    emitter = Emitter(clock)
    replaces = settings.replaces
    store = open_store(path, settings, clock, partial(make_way, replaces))
    try:
        supervisor = Supervisor(settings, store, codec, registry, emitter, clock, labels_of)
        if settings.persist_logs:
            supervisor.flusher.persist_logs()
        failed_runs = FailedRuns(supervisor.unseen_failures, Reader(store, codec, registry), clock)
        shutdown = Shutdown(
            store,
            supervisor,
            registry,
            clock,
            failed_runs.error,
            raise_failed=settings.raise_failed,
        )
        client = Client(store, codec, registry, emitter, clock, supervisor.local, shutdown.check)
        at_exit(shutdown.at_exit)
        enter(shutdown, replaces=replaces)
        deliver()
    except BaseException:
        store.close()
        raise
    return Parts(emitter, store, supervisor, shutdown, client)
