"""SQLite gets no more memory: a clear error, and the connection is good for the next call."""

from __future__ import annotations

import random
from pathlib import Path

import apsw
from crash.short_memory_workload import scrape_by


def test_each_call_with_too_little_memory(tmp_path: Path, seed: int) -> None:
    """Every call gets a DatabaseError that says so for as long as SQLite has too little memory, and
    goes through, with the same engine, when it has enough; nothing is stored by halves, no step is
    executed twice.
    """
    found, counts = scrape_by(tmp_path, random.Random(seed), step=15_000)
    assert found == [], f"seed {seed}"
    assert sum(counts.values()) > 20
    assert apsw.hard_heap_limit(-1) == 0
