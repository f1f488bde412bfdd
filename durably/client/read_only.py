"""A client that only reads: what the faces ask of a file while others execute its runs."""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from durably._platform.clock import Clock, from_datetime
from durably.client.arguments import AnyRun, NameFilter, StatusFilter
from durably.client.calls import RunCalls
from durably.client.client import Client
from durably.client.doctor import Finding, examine
from durably.client.log_entries import entries_of
from durably.client.unreadable import readable
from durably.jobs import Job
from durably.models.plans import Plan
from durably.store.change_feed import ChangeFeed
from durably.store.conditions import Condition, JobUsage, Sizes
from durably.store.owners import Liveness
from durably.store.rows import Executor

if TYPE_CHECKING:
    from durably.models.records import LogEntry
    from durably.store.api import Store
    from durably.store.item_rows import FailureKind, MapState

# How many failed items of a map are read to say what kinds of failures there are.
MOST_FAILURES_READ = 10_000


class ReadOnlyClient(RunCalls):
    """Read the runs of a file. Usable from any thread of its process; a context manager.

    It has the calls of an engine about runs; those that would write raise ``DatabaseError``.

    Attributes:
        path: of the file.
        changes: notices commits of other processes.
    """

    def __init__(self, store: Store, client: Client) -> None:
        self._store = store
        self._client = client
        self._check = store.check_in_place
        self.path = store.path
        self.changes: ChangeFeed = store.changes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._store.close()

    def plan_with(self, run: AnyRun, job: Job[Any, Any] | None) -> Plan:
        """Return the plan of a run, compared with the functions beside a job."""
        return self._client.answers.plan(run, job)

    def runs_named(self, name: str, limit: int = 10) -> list[AnyRun]:
        """Return the run with that id; else those with that key; else those whose id ends with it.

        Newest first. Those that cannot be read are left out.
        """
        self._check()
        rows = self._store.runs_named(name, limit)
        return list(readable(self._client.reader.run_of, rows))

    def find_runs(
        self,
        *,
        status: StatusFilter = None,
        job_name: NameFilter = None,
        labels: dict[str, str] | None = None,
        since: datetime | None = None,
        limit: int | None = None,
        values: bool = True,
    ) -> list[AnyRun]:
        """Return the runs that match, newest first; the filters are those of ``get_runs``.

        Args:
            since: an aware instant, for the runs to which anything has happened since then.
            values: whether payloads and outputs are read; else they are ``None``.
        """
        self._check()
        since_us = None if since is None else from_datetime(since)
        return self._client.reader.find_many(
            status, job_name, labels, limit, 0, since_us=since_us, values=values
        )

    def purgeable(self, before: datetime, *, keep_failed: bool) -> tuple[int, int]:
        """Return how many runs that ended before then a purge would delete, and their bytes."""
        self._check()
        return self._store.purgeable(from_datetime(before), keep_failed=keep_failed)

    def usage(self) -> list[JobUsage]:
        """Return what each job's runs take in the file, the job that takes most first."""
        self._check()
        return self._store.usage()

    def sizes(self) -> Sizes:
        """Return how large the file is, and how much of it is free."""
        self._check()
        return self._store.sizes()

    def examine(self) -> tuple[Condition, list[Finding]]:
        """Return the condition of the file and of those that use it, and what is unusual."""
        self._check()
        return examine(self._store, Clock())

    def running(self, limit: int) -> list[AnyRun]:
        """Return the runs that are executed now, newest first; *limit* at most."""
        self._check()
        return list(readable(self._client.reader.run_of, self._store.running(limit)))

    def log_lines(self, run: AnyRun, after: int = 0) -> tuple[list[LogEntry], int]:
        """Return the stored log lines of the run that are newer than number *after*.

        With them comes the number of the newest one, for the next call.
        """
        self._check()
        rows = self._store.log_lines_of(run.id, after=after)
        newest = rows[-1].log if rows else after
        return list(entries_of(rows, run.id)), newest

    def executor_of(self, run: AnyRun) -> Executor | None:
        """Return the engine that has the run, ``None`` if none has it."""
        self._check()
        return self._store.executor_of(run.id)

    def is_any_executing(self) -> bool:
        """Return whether a process that may execute runs has the file open."""
        self._check()
        liveness = (self._store.liveness_of(owner.token) for owner in self._store.owners())
        return any(state is not Liveness.DEAD for state in liveness)

    def open_maps(self, run: AnyRun) -> list[MapState]:
        """Return the maps of the run that have not ended: in progress, or interrupted."""
        self._check()
        return self._store.open_maps(run.id)

    def failures_of(self, run: AnyRun, step: str) -> list[FailureKind]:
        """Return the kinds of failures of a map's items, the most frequent one first.

        Only the first ``MOST_FAILURES_READ`` failed items are read.
        """
        self._check()
        return self._store.failures_of(run.id, step, MOST_FAILURES_READ)
