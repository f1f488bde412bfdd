"""Return whether the database file is in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from durably.errors import DatabaseLostError

if TYPE_CHECKING:
    from durably.store.api import Store


class DatabaseFile:
    """Checks the file for one engine, which stays lost once it was. Usable from any thread.

    Args:
        on_lost: called when the file is found lost.
    """

    def __init__(self, store: Store, on_lost: Callable[[], None]) -> None:
        self._store = store
        self._on_lost = on_lost
        self.lost: DatabaseLostError | None = None

    def check_in_place(self) -> None:
        """Check that the file is in its place.

        Raises:
            DatabaseLostError: it is not, or was not at an earlier check.
        """
        self._check(self._store.check_in_place)

    def check_all(self) -> None:
        """Check that the file and those beside it are in their places, unless it was found lost."""
        if self.lost is None:
            self._check(self._store.check_in_place)
            self._check(self._store.check_wal)

    def _check(self, check: Callable[[], None]) -> None:
        if self.lost is not None:
            raise self.lost
        try:
            check()
        except DatabaseLostError as exc:
            self.lost = exc
            self._on_lost()
            raise
