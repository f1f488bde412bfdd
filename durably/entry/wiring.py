"""The wiring of an engine: opens its file, makes its parts and connects them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import attrs

from durably._platform.clock import Clock
from durably._platform.signals import deliver
from durably.client.client import Client
from durably.client.failed_runs import FailedRuns
from durably.client.query import Reader, labels_of
from durably.codec import Codec
from durably.display.displays import LiveDisplays
from durably.execution.emitter import Emitter
from durably.jobs import Job, job_list
from durably.jobs.registry import JobRegistry
from durably.settings import Settings, check_option_names, show_by_environment
from durably.store.sqlite.opening import open_store
from durably.store.sqlite.store import SqliteStore
from durably.worker.exit import at_exit
from durably.worker.open_engines import Opening
from durably.worker.shutdown import Shutdown
from durably.worker.supervisor import Supervisor

if TYPE_CHECKING:
    import cattrs

    from durably.codec.own_forms import ValueCodec
    from durably.execution.live import Displays
    from durably.settings.options import SettingOptions


class Parts(NamedTuple):
    """What the calls of one engine use."""

    emitter: Emitter
    store: SqliteStore
    supervisor: Supervisor
    shutdown: Shutdown
    client: Client
    displays: Displays


def open_session_parts(
    name: str,
    path: str | os.PathLike[str] | None,
    /,
    *,
    jobs: Iterable[Job[Any, Any]] = (),
    converter: cattrs.Converter | None = None,
    codecs: Iterable[ValueCodec] = (),
    **options: Unpack[SettingOptions],
) -> Parts:
    """Open the parts of an engine for a session of that name, as ``open_parts`` does."""
    check_option_names("session", options, attrs.fields_dict(Settings))
    return open_parts(
        path, jobs, converter, Settings(**options), codecs, is_beside=True, session=name
    )


def open_parts(
    path: str | os.PathLike[str] | None,
    jobs: Iterable[Job[Any, Any]],
    converter: cattrs.Converter | None,
    settings: Settings,
    codecs: Iterable[ValueCodec] = (),
    *,
    is_beside: bool = False,
    session: str | None = None,
) -> Parts:
    """Open the file, and return the parts of an engine on it, which is known to this process.

    The file is closed again if anything raises: the caller has no engine to close.

    Args:
        is_beside: whether it ends with the call or the session that it is opened for. It neither
            replaces another engine on the file nor is replaced by one, unless the file is lost.
        session: the name of the session, if it is opened for one.
    """
    codec, clock = Codec(converter, codecs=codecs), Clock()
    # Before the file is touched: a bad spec must not leave one behind.
    registry = JobRegistry(codec, job_list(jobs))
    emitter = Emitter(clock)
    show_by_environment()  # raises if it makes no sense
    displays = LiveDisplays(settings.show)
    opening = Opening(replaces=settings.replaces, is_beside=is_beside)
    store = open_store(path, settings, clock, opening.make_way)
    codec.use_files(store.files)
    try:
        supervisor = Supervisor(settings, store, codec, registry, emitter, clock, labels_of)
        if settings.persist_logs:
            supervisor.flusher.persist_logs()
        reader = Reader(store, codec, registry)
        failed_runs = FailedRuns(supervisor.unseen_failures, reader, clock)
        shutdown = Shutdown(
            store,
            supervisor,
            registry,
            clock,
            failed_runs.error,
            raise_failed=settings.raise_failed,
            is_beside=is_beside,
            session=session,
            displays=displays,
        )
        client = Client(
            store,
            codec,
            registry,
            emitter,
            clock,
            supervisor.local,
            shutdown.check,
            reader,
            displays,
        )
        supervisor.family.runs = lambda: client.children
        at_exit(shutdown.at_exit)
        opening.enter(shutdown)
        deliver()
    except BaseException:
        store.close()
        raise
    return Parts(emitter, store, supervisor, shutdown, client, displays)
