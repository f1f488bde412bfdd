"""The example import of the documentation, as it is and without durably."""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType

import durably
from benchmarks.systems.child import Meter, Outcome, main
from benchmarks.systems.durably_engine import durability

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "import_airports.py"
SHIPPED = Path(str(importlib.resources.files("airportsdata") / "airports.csv"))


def example() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("import_airports", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def cut(rows: int) -> Path:
    """The first so many airports."""
    with SHIPPED.open(encoding="utf-8", newline="") as lines:
        text = [line for _, line in zip(range(rows + 1), lines, strict=False)]
    source = Path("airports.csv")
    source.write_text("".join(text), encoding="utf-8")
    return source.resolve()


def measure(*, rows: int, batch_size: int, synchronous: str | None) -> Outcome:
    """Seconds for the import; *synchronous* ``None`` without durably."""
    script = example()
    csv = cut(rows)
    sha256 = hashlib.sha256(csv.read_bytes()).hexdigest()
    target = Path("airports.db").resolve()
    source = script.Source(csv, sha256, target, batch_size)
    in_force = None
    if synchronous is None:
        with Meter() as meter:
            all_rows = script.read_rows(source)
            for start in range(0, len(all_rows), batch_size):
                script.import_batch(target, all_rows[start : start + batch_size])
    else:
        app = durably.Durably("durably.db", jobs=[script.import_airports], synchronous=synchronous)
        with app:
            with Meter() as meter:
                app.jobs["import-airports"].trigger_and_wait(source)
            in_force = durability(app)
    with closing(sqlite3.connect(target)) as db:
        stored = db.execute("SELECT count(*) FROM airports").fetchone()[0]
    assert stored == rows, f"{stored} airports were imported, not {rows}"
    return {"value": meter.seconds, "durability": in_force}


if __name__ == "__main__":
    main({"measure": measure})
