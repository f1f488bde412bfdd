"""The systems that are measured, what a table of measurements is, and how much work is done."""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen

from benchmarks.measuring import Case, System

FLOOR = System(
    "floor", "floor", "floor.db", "SELECT count(*) FROM steps",
    "SELECT count(*) FROM runs WHERE status = 'completed'",
)  # fmt: skip
FLOOR_ABREAST = System("floor", "floor_abreast", "floor.db", FLOOR.count_steps, None)
DURABLY = System(
    "durably", "durably_engine", "durably.db",
    "SELECT count(*) FROM durably_steps WHERE status = 'completed'",
    "SELECT count(*) FROM durably_runs WHERE status = 'completed'",
)  # fmt: skip
ALONE = System("durably", "durably_alone", "durably.db", DURABLY.count_steps, DURABLY.count_runs)
LARGE_PARTS = System("large parts", "large_parts", "durably.db", None, None)
AIRPORTS = System("durably", "airports", "durably.db", None, None)
DBOS = System(
    "dbos", "dbos_sqlite", "dbos.db",
    "SELECT count(*) FROM operation_outputs",
    "SELECT count(*) FROM workflow_status WHERE status = 'SUCCESS'",
)  # fmt: skip
HUEY = System("huey", "huey_sqlite", "huey.db", None, "SELECT count(*) FROM kv")
DURA = System(
    "dura", "dura_engine", "dura.db",
    "SELECT count(*) FROM checkpoints",
    "SELECT count(*) FROM tasks WHERE state = 'completed'",
)  # fmt: skip
COJI = System(
    "@coji/durably", "coji_durably.mjs", "coji.db",
    "SELECT count(*) FROM durably_steps WHERE status = 'completed'",
    "SELECT count(*) FROM durably_runs WHERE status = 'completed'",
)  # fmt: skip

BARE = System("floor", "bare_loops", "", None, None)
BARE_LOKY = System("loky", "bare_loops", "", None, None)
BARE_DASK = System("dask", "dask_loops", "", None, None)
JOBLIB = System("joblib", "joblib_loops", "", None, None)
DURABLY_LOOPS = System(
    "durably", "durably_loops", "durably.db",
    "SELECT count(*) FROM durably_items WHERE output IS NOT NULL", None,
)  # fmt: skip
DURABLY_ON_LOKY = evolve(DURABLY_LOOPS, name="loky")
DURABLY_ON_DASK = evolve(DURABLY_LOOPS, name="dask", program="dask_loops")
DURABLY_STEPS = System("durably", "durably_loops", "durably.db", DURABLY.count_steps, None)

MODES = ("full", "normal")
STEP_PEERS = (DBOS, DURA, COJI)


@frozen
class Table:
    """Cases that are compared with each other.

    Args:
        key: its name in the raw figures.
        higher_is_better: of the unit.
        most_turns: for what takes long and varies little.
    """

    key: str
    title: str
    unit: str
    cases: list[Case]
    higher_is_better: bool = True
    most_turns: int = 99
    note: str = ""


class Sizes:
    """How much of each work is done."""

    def __init__(self, scale: float, *, quick: bool) -> None:
        self._scale = scale
        self.quick = quick

    def synced(self, full: int, quick: int, multiple: int = 1) -> int:
        """A number of commits."""
        number = max(multiple, int((quick if self.quick else full) * self._scale))
        return number - number % multiple

    def plain(self, full: int, quick: int) -> int:
        """A number that the disk has nothing to do with."""
        return quick if self.quick else full


def in_modes(
    system: System, workload: str, arguments: dict[str, Any], name: str = "", **expected: Any
) -> list[Case]:
    """A case for each setting of ``synchronous``."""
    return [
        Case(
            f"{system.name}{name}, {mode}",
            system,
            workload,
            {**arguments, "synchronous": mode},
            **expected,
        )
        for mode in MODES
    ]
