"""What the tests of single parts share."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import cattrs
import pytest
from children import Child
from codeckit import Money
from storekit import FakeClock, put_new_database

from durably.codec import Codec
from durably.store.sqlite.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still until a test moves it."""
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    """A new database, closed at the end. In mode normal: no test here cuts the power."""
    path = tmp_path / "test.db"
    put_new_database(path)
    database = Database(path, synchronous="normal")
    yield database
    database.close()


@pytest.fixture
def spawn() -> Iterator[Callable[..., Child]]:
    """Start programs of ``programs/``, which are killed at the end."""
    with contextlib.ExitStack() as children:
        yield lambda *args: children.enter_context(Child(*args))


@pytest.fixture
def codec() -> Codec:
    """A codec that knows Python's own types and no others."""
    return Codec()


@pytest.fixture
def money_codec() -> Codec:
    """A codec that knows a class of the user's as well."""
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Money, lambda m: f"{m.cents}c")
    converter.register_structure_hook(Money, lambda v, _: Money(int(v.removesuffix("c"))))
    return Codec(converter)
