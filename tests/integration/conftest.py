"""What the tests of whole engines share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from gates import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.go.set()
