"""What is displayed while an engine executes all that it can claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from durably._platform.clock import Clock
from durably.codec.json_text import dump
from durably.execution.current_run import CurrentRun
from durably.execution.live import View
from durably.execution.run_view import view_of
from durably.jobs.registry import JobRegistry
from durably.models import TERMINAL, RunStatus
from durably.store.read_rows import Filters
from durably.worker.supervisor import Supervisor

if TYPE_CHECKING:
    from durably.store.api import Store

# How often the runs that wait are counted for a display.
_COUNT_S: Final = 2.0


def pending(store: Store, registry: JobRegistry) -> int:
    """Return how many runs are pending that this engine can execute."""
    claimed = registry.claimed
    jobs = "[]" if claimed is None else claimed.jobs
    return store.count_runs(Filters(dump([RunStatus.PENDING]), jobs, kind="job"))


class LiveEngine:
    """The runs that an engine executes during a call that waits until none is left."""

    def __init__(
        self, store: Store, supervisor: Supervisor, registry: JobRegistry, clock: Clock
    ) -> None:
        self._store = store
        self._supervisor = supervisor
        self._registry = registry
        self._clock = clock
        # The first view is taken in another thread, when runs may have ended.
        self._before = supervisor.snapshot()[1]
        self._failed_before = self._failed()
        # How many there are, as far as that is known, and when the pending ones were counted.
        self._total = 0
        self._counted_at_s: float | None = None
        self._only: CurrentRun | None = None

    def view(self) -> View:
        """Return how many runs were executed, and those that are."""
        running, left = self._supervisor.snapshot()
        done = left - self._before
        began = done + len(running)
        now_s = self._clock.monotonic()
        if self._counted_at_s is None or now_s - self._counted_at_s >= _COUNT_S:
            self._counted_at_s = now_s
            self._total = began + pending(self._store, self._registry)
        self._total = max(self._total, began)
        if self._total <= 1:
            return self._one(running)
        views = tuple(view_of(run) for run in sorted(running, key=lambda run: run.began_at))
        return View(
            views,
            is_several=True,
            done=done,
            failed=self._failed() - self._failed_before,
            total=self._total if running else began,
        )

    def _failed(self) -> int:
        unseen = self._supervisor.unseen_failures.unseen()
        return len(unseen.attempts) + unseen.forgotten

    def _one(self, running: list[CurrentRun]) -> View:
        """Return the only run, whose end is read once."""
        if running:
            self._only = running[0]
            return View((view_of(self._only),))
        if self._only is None:
            return View()
        brief = self._store.brief(self._only.id)
        status = "stopped" if brief is None or brief.status not in TERMINAL else brief.status
        return View((view_of(self._only, status=status),))
