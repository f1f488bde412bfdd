"""What the calls of a client display while they wait: one run, or several."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

from durably._platform.clock import Clock, moment
from durably._platform.interactive import kernel
from durably.codec.json_text import load
from durably.execution.current_run import CurrentRun
from durably.models import TERMINAL
from durably.store import defects
from durably.store.rows import Brief, RunRow

if TYPE_CHECKING:
    from durably.client.local_worker import LocalWorker
    from durably.execution.live import RunView, View
    from durably.store.api import Store

# How often a run that another process executes is read for a display.
_READ_S: Final = 1.0


class LiveRun:
    """One run that a call executes or waits for. Its attributes are set by the call.

    Attributes:
        run_id: once it is known.
        name: of its job; read if it is empty.
        current: the run, while this process executes it, and after its end here.
        status: how the call has left it, once it has.
        where: who executes it elsewhere.
    """

    def __init__(
        self,
        store: Store,
        worker: LocalWorker,
        clock: Clock,
        *,
        run_id: str | None = None,
    ) -> None:
        self._store = store
        self._worker = worker
        self._clock = clock
        self.run_id = run_id
        self.name = ""
        self.key: str | None = None
        self.current: CurrentRun | None = None
        self.status: str | None = None
        self.where: str | None = None
        self._seen: RunView | None = None
        self._read_at_s: float | None = None
        # What has died, by the claim of the run that is executed here.
        self._died: dict[int, str] = {}

    def view(self) -> View:
        """Return the run as it is now."""
        from durably.execution.live import View  # noqa: PLC0415 - where first needed
        from durably.execution.run_view import view_of  # noqa: PLC0415 - where first needed

        if self.run_id is None:
            return View()
        here = self._executed_here()
        self.current = here or self.current
        current = here if self.status is None else self.current
        if current is not None and current.prompt is not None:
            current.prompt.note_view()
            return View()
        if current is not None:
            view = view_of(current, status=self.status or "running")
            return View((view._replace(died=self._died_before(current)),))
        now_s = self._clock.monotonic()
        is_due = self._read_at_s is None or now_s - self._read_at_s >= _READ_S
        if self.status is not None or is_due:
            self._read_at_s = now_s
            self._read(self.run_id)
            if self._seen is None or self._seen.status not in TERMINAL:
                # Its next steps are counted elsewhere, or by another execution.
                self.current = None
        return View() if self._seen is None else View((self._seen,))

    def _died_before(self, current: CurrentRun) -> str:
        """Return what has died in the execution before this one, which is read once."""
        if current.fence > 1 and current.fence not in self._died:
            before = [each.outcome for each in self._store.attempts_of(current.id)[-2:-1]]
            what = "process" if kernel() is None else "kernel"
            self._died[current.fence] = what if before == ["died"] else ""
        return self._died.get(current.fence, "")

    def _executed_here(self) -> CurrentRun | None:
        return next((run for run in self._worker.executing() if run.id == self.run_id), None)

    def _read(self, run_id: str) -> None:
        if not self.name:
            row = self._store.find_run(run_id)
            if row is None:
                return
            self.name, self.key = row.job_name, row.idempotency_key
        brief = self._store.brief(run_id)
        if brief is not None:
            view = seen_elsewhere(brief, self.name, self.key)
            self._seen = view._replace(
                status=self.status or view.status,
                message=self._waits(brief) or view.message or self.where,
            )

    def _waits(self, brief: Brief) -> str | None:
        """Return what the run waits for without a thread, if it does."""
        from durably.execution.run_view import said_of_wait  # noqa: PLC0415 - where first needed

        row = self._store.find_run(brief.id) if brief.status in ("pending", "waiting") else None
        if row is None:
            return None
        if row.waits_for is not None:
            return said_of_wait(row.waits_for, row.wait_name, row.run_at_us)
        if row.run_at_us is None:
            return None
        return said_of_retry(row) if row.attempt else f"begins at {moment(row.run_at_us)}"


def said_of_retry(row: RunRow) -> str:
    """Return when a pending run is tried again, and after what error."""
    try:
        error: Any = load(row.last_error or "null")
    except (ValueError, RecursionError):
        error = None
    after = f" after {error['type']}: {error['message']}" if defects.is_error(error) else ""
    return f"tried again at {moment(row.run_at_us or 0)}{after}"


class LiveRuns:
    """Several runs that a call waits for.

    Attributes:
        briefs: their state, as the call has read it last.
    """

    def __init__(self, worker: LocalWorker, run_ids: Collection[str]) -> None:
        self._worker = worker
        self._run_ids = frozenset(run_ids)
        self.briefs: dict[str, Brief] = {}
        # By how those have ended that the call has returned.
        self.ended: dict[str, str] = {}

    def view(self) -> View:
        """Return how many have ended, and those that are executed here."""
        briefs = tuple(self.briefs.values())
        over = dict(self.ended)
        over.update((each.id, each.status) for each in briefs if each.status in TERMINAL)
        running = [run for run in self._worker.executing() if run.id in self._run_ids]
        return several(
            (run for run in running if run.id not in over),
            done=len(over),
            failed=sum(status == "failed" for status in over.values()),
            total=len(self._run_ids),
        )


def several(runs: Iterable[CurrentRun], *, done: int, failed: int, total: int | None) -> View:
    """Return the view of several runs, those that have been executed for longest first."""
    from durably.execution.live import View  # noqa: PLC0415 - where first needed
    from durably.execution.run_view import view_of  # noqa: PLC0415 - where first needed

    views = tuple(view_of(run) for run in sorted(runs, key=lambda run: run.began_at))
    return View(views, is_several=True, done=done, failed=failed, total=total)


def seen_elsewhere(brief: Brief, name: str, key: str | None) -> RunView:
    """Return how far a run is that another process executes."""
    from durably.execution.live import RunView  # noqa: PLC0415 - where first needed
    from durably.execution.run_view import as_float  # noqa: PLC0415 - where first needed

    view = RunView(brief.id, name, key, brief.status, unit="", is_here=False)
    try:
        progress: Any = load(brief.progress or "null")
    except (ValueError, RecursionError):
        return view
    if not defects.is_progress(progress):
        return view
    total = progress["total"]
    return view._replace(
        done=as_float(progress["current"]),
        total=None if total is None else as_float(total),
        message=progress["message"],
    )
