"""Make the attempts of a run for users from rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durably._platform.clock import to_datetime
from durably.client.arguments import AnyRun, run_id_of
from durably.client.query import Reader
from durably.client.unreadable import UNREADABLE, raise_defect, readable
from durably.models.records import Attempt, AttemptList
from durably.store import defects

if TYPE_CHECKING:
    from durably.store.api import Store
    from durably.store.read_rows import AttemptRow


class AttemptReader:
    """Read how runs were executed. Usable from any thread."""

    def __init__(self, store: Store, reader: Reader) -> None:
        self._store = store
        self._reader = reader

    def attempts_of(self, run: AnyRun | str) -> AttemptList:
        """Return the executions of a run, the first one first.

        Those that cannot be read are left out.

        Raises:
            NotFoundError: there is no such run.
            DatabaseError: the run cannot be read.
        """
        run_id = run_id_of(run)
        self._store.get_run(run_id)
        rows = self._store.attempts_of(run_id)
        return AttemptList(readable(lambda row: self._attempt_of(row, run_id), rows))

    def _attempt_of(self, row: AttemptRow, run_id: str) -> Attempt:
        try:
            return Attempt(
                run_id=run_id,
                attempt=row.attempt,
                outcome=row.outcome,  # type: ignore[arg-type]  # the schema allows no other
                host=row.host,
                pid=row.pid,
                started_at=None if row.started_at_us is None else to_datetime(row.started_at_us),
                ended_at=None if row.ended_at_us is None else to_datetime(row.ended_at_us),
                error=self._reader.error_of(row.error),
                steps_completed=row.steps_completed,
                steps_reused=row.steps_reused,
                unused_steps=self._reader.names_of(row.unused_steps),
            )
        except UNREADABLE as exc:
            what = f"attempt {row.attempt} of run {run_id!a:.80}"
            raise_defect(exc, what, defects.of_attempt(row._asdict()))
