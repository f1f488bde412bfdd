"""Fingerprints of plain functions that an engine has computed."""

from __future__ import annotations

from types import CodeType
from typing import Final

# Functions whose fingerprint is kept as long as the engine.
_MOST_KEPT: Final = 256


class KnownCodes:
    """The fingerprints by the id of the functions' code, which stays alive here.

    Usable from any thread.

    Attributes:
        by_id: each step reads it, which is the quickest way.
    """

    def __init__(self) -> None:
        self.by_id: dict[int, int | None] = {}
        self._kept: list[CodeType] = []

    def keep(self, code: CodeType, fingerprint: int | None) -> None:
        """Keep the fingerprint of a function that has that code and no defaults."""
        if len(self._kept) < _MOST_KEPT:
            self._kept.append(code)
            self.by_id[id(code)] = fingerprint
