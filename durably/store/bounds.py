"""The bounds of the numbers in a database file, as in the schema's CHECKs."""

from typing import Final, NamedTuple


class Bounds(NamedTuple):
    """The least and the greatest number of a column."""

    least: int
    most: int


# The number of a step is the run's number, shifted by 24 bits, plus an index.
MOST_RUNS: Final = 2**39 - 1
# The most steps that a run can have.
MOST_STEPS: Final = 1 << 24
# The number of an item is the map's number, shifted by 30 bits, plus an index.
MOST_MAPS: Final = 2**33 - 1
# The most items that a map can have.
MOST_ITEMS: Final = 1 << 30

# The range of a datetime, in microseconds since the epoch.
TIME: Final = Bounds(-62_135_596_800_000_000, 253_402_300_799_999_999)
NUMBER: Final = Bounds(1, MOST_RUNS)
TRIES: Final = Bounds(0, 2**31 - 1)

RUN: Final = {
    "run": NUMBER,
    "attempt": TRIES,
    "fence": TRIES,
    "failures": TRIES,
    "deaths": TRIES,
    "redos": TRIES,
    "created_at_us": TIME,
    "started_at_us": TIME,
    "completed_at_us": TIME,
    "updated_at_us": TIME,
    "heartbeat_at_us": TIME,
    "run_at_us": TIME,
    "claimed_at_us": TIME,
    "pid": Bounds(0, 2**32 - 1),
    "timeout_us": Bounds(1, 10**16),
}
# Of a run that is claimed: the schema has just checked the others, which the claim writes.
KEPT_BY_A_CLAIM: Final = {
    name: RUN[name]
    for name in ("run", "failures", "deaths", "redos", "created_at_us", "timeout_us")
}
ATTEMPT: Final = {
    "attempt": Bounds(1, TRIES.most),
    "pid": Bounds(0, 2**32 - 1),
    "started_at_us": TIME,
    "ended_at_us": TIME,
}
# A layer is the fence of an execution, and so many bits for those within it: each cell of a
# notebook that is executed is one.
FENCE_BITS: Final = 24

STEP: Final = {
    "attempt": Bounds(1, TRIES.most),
    "started_at_us": TIME,
    "completed_at_us": TIME,
}
MAP: Final = {
    "map": Bounds(1, MOST_MAPS),
    "attempt": Bounds(1, TRIES.most),
    "started_at_us": TIME,
    "completed_at_us": TIME,
    "done": Bounds(0, 2**30),
    "failed": Bounds(0, 2**30),
    "reused": Bounds(0, 2**30),
    "total": Bounds(0, 2**63 - 1),
}
ITEM: Final = {
    "attempts": Bounds(1, TRIES.most),
    "started_at_us": TIME,
    "completed_at_us": TIME,
}
LOG: Final = {"log": NUMBER, "owner": Bounds(0, MOST_RUNS), "created_at_us": TIME}
OWNER: Final = {
    "owner": NUMBER,
    "pid": Bounds(0, 2**32 - 1),
    "heartbeat_interval_us": Bounds(1, 3_153_600_000_000_000),
    "beat": Bounds(0, 2**53 - 1),
    "beat_at_us": TIME,
    "opened_at_us": TIME,
}


def outside(columns: dict[str, Bounds]) -> str:
    """Return the SQL condition that is true if a number of these columns is out of bounds."""
    return " OR ".join(
        f"{name} NOT BETWEEN {least} AND {most}" for name, (least, most) in columns.items()
    )
