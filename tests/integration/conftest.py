"""What the tests of whole engines share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from held import HeldJob

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def held() -> Iterator[HeldJob]:
    held = HeldJob()
    yield held
    held.let_all_go()
