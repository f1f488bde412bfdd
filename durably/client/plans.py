"""Make the plan of a run: compare the code of what is stored with that of today's functions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from durably._platform.clock import to_datetime
from durably._platform.fingerprints import fingerprint, is_comparable
from durably.client.arguments import AnyRun, run_id_of
from durably.client.query import Reader
from durably.execution.code_changes import code_of
from durably.jobs import Job
from durably.models.plans import Plan, PlannedStep, PlannedStepList

if TYPE_CHECKING:
    from durably.store.api import Store
    from durably.store.read_rows import CodeRow

_MAIN = ("__main__", "__mp_main__")


class Planner:
    """Compare what runs have stored with the functions that are loaded. Usable from any thread."""

    def __init__(self, store: Store, reader: Reader) -> None:
        self._store = store
        self._reader = reader

    def plan_of(self, run: AnyRun | str, job: Job[Any, Any] | None = None) -> Plan:
        """Return the plan of a run. Nothing is executed, and no module is imported.

        Args:
            job: whose functions are compared; by default the one that is registered.

        Raises:
            NotFoundError: there is no such run.
        """
        row = self._store.get_run(run_id_of(run))
        if job is None and row.kind == "job":
            job = self._reader.job_of(row.job_name)
        steps: dict[int, PlannedStep] = {}
        for each in self._store.codes_of(row.id):
            step = _step(each, job)
            before = steps.get(each.step_index)
            # Items of a map may be of several versions of its function.
            if before is None or (step.code_changed and not before.code_changed):
                steps[each.step_index] = step
        last = self._store.newest_code_of(row.id)
        return Plan(
            run_id=row.id,
            job_name=row.job_name,
            code_changed=None if job is None else _is_changed(last, fingerprint(job.run)),
            steps=PlannedStepList(steps.values()),
        )


def _step(row: CodeRow, job: Job[Any, Any] | None) -> PlannedStep:
    # Several functions may have the same code, until one of them is changed.
    found = {name: fn for name in row.names if (fn := _found(name, job)) is not None}
    changed = {_is_changed(row.code, code_of(function)) for function in found.values()}
    return PlannedStep(
        name=row.name,
        index=row.step_index,
        stored_at=to_datetime(row.stored_at_us),
        function=next(iter([*found, *row.names]), None),
        code_changed=changed.pop() if len(changed) == 1 else None,
    )


def _is_changed(stored: int | None, now: int | None) -> bool | None:
    if stored is None or now is None or not is_comparable(stored, now):
        return None
    return stored != now


def _found(name: str, job: Job[Any, Any] | None) -> Callable[..., Any] | None:
    """Return the function of that name, in its module or beside the job's function."""
    module, _, qualified = name.partition(":")
    scopes: list[dict[str, Any]] = []
    if module in sys.modules and (module not in _MAIN or job is None):
        scopes.append(vars(sys.modules[module]))
    if job is not None:
        scopes.append(getattr(job.run, "__globals__", {}))
    found = (_inside(scope, qualified.split(".")) for scope in scopes)
    return next((each for each in found if each is not None), None)


def _inside(scope: dict[str, Any], path: Iterable[str]) -> Callable[..., Any] | None:
    """Return what is at a path of names, without executing anything of it."""
    found: Any = None
    names: Any = scope
    for name in path:
        found = names.get(name)
        names = vars(found) if isinstance(found, type) else {}
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    return found if callable(found) else None
