"""Foreign runs: pending, with checkpoints, and begun by other code with a job of that name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from durably.jobs.registry import JobRegistry, origins_of, takes_any_origin
from durably.store.rows import Begun

if TYPE_CHECKING:
    from durably.store.api import Store

logger = logging.getLogger("durably")


class ForeignRuns:
    """The runs that this engine does not claim, because other code has begun them.

    Two scripts that share a file may each have a job of one name. Neither must continue what the
    other has begun, whose checkpoints say nothing about its own steps. Usable from any thread.
    """

    def __init__(self, store: Store, registry: JobRegistry) -> None:
        self._store = store
        self._registry = registry
        # By job and origin. With setdefault only one of two threads warns.
        self._warned: dict[tuple[str, str], object] = {}

    def warn(self) -> None:
        """Log a warning once for each job and foreign origin that has such runs."""
        jobs = self._registry.particular_json
        if jobs is None:
            return
        for begun in self._store.begun(jobs):
            first = object()
            seen = begun.job_name, begun.origin
            if self._is_foreign(begun) and self._warned.setdefault(seen, first) is first:
                logger.warning("%s", self.explain(begun))

    def among(self, run_ids: Sequence[str]) -> dict[str, Begun]:
        """Return those of the runs that this engine does not claim, by id."""
        if self._registry.particular_json is None:
            return {}
        begun = self._store.begun_of_many(run_ids)
        return {each.id: each for each in begun if self._is_foreign(each)}

    def _is_foreign(self, begun: Begun) -> bool:
        job = self._registry.get(begun.job_name)
        return job is not None and not takes_any_origin(job) and begun.origin not in origins_of(job)

    def explain(self, begun: Begun) -> str:
        """Return why the run is not claimed, and what to do."""
        # The place of a job that was defined again at a prompt meanwhile is not known.
        here = next(iter(origins_of(self._registry.require(begun.job_name))), "another one")
        origin = ascii(begun.origin)[1:-1]  # read from the file: it may contain anything
        return (
            f"run {begun.id} of job {begun.job_name!r} has checkpoints of {origin:.200}, and the "
            f"job of that name here, {here}, does not continue them. Give one of the "
            f"jobs a name of its own. If they are the same code, call app.adopt({begun.id!r}), or "
            'define the job with durably.job(..., origin="any").'
        )
