"""What the tests of single parts share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from storekit import FakeClock

from durably.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still until a test moves it."""
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    """A new database, closed at the end. In mode normal: no test here cuts the power."""
    database = Database(tmp_path / "test.db", synchronous="normal")
    yield database
    database.close()
