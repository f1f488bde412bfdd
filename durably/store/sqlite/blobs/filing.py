r"""Large texts of a database as files: what becomes one, who refers to it, what is removed.

A text that is a file is stored as ``\n{"$":"file","file":"<hash>","size":<bytes>}``. No other text
that durably stores begins with a line feed, and JSON tools still read it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from durably._platform.clock import Clock
from durably.codec.json_text import FILED
from durably.errors import DatabaseError
from durably.settings import Synchronous
from durably.store.rows import RunKey
from durably.store.sqlite.blobs.folder import BlobFolder, is_name
from durably.store.sqlite.locks.pins import Pin
from durably.store.sqlite.sql import blobs
from durably.store.sqlite.sql.blobs import Reference

if TYPE_CHECKING:
    from durably.store.sqlite.database import Database
    from durably.store.sqlite.looking import LookedAt

T = TypeVar("T")

# Texts of more characters, each of which is a byte, become files.
LARGE: Final = 4 * 1024 * 1024


class Filing:
    """Stores large texts of one database in its folder. Usable from any thread.

    Args:
        files: whether large texts become files; those that are files can be read in any case.

    Attributes:
        has_files: likewise.
    """

    def __init__(
        self,
        database: Database | LookedAt,
        folder: BlobFolder,
        *,
        files: bool = True,
        synchronous: Synchronous = "full",
        clock: Clock | None = None,
    ) -> None:
        self.folder = folder
        self._database = database
        self.has_files = files
        self._is_synced = synchronous == "full"
        self._clock = clock or Clock()

    def is_large(self, text: str | None) -> bool:
        """Return whether a text becomes a file."""
        return text is not None and len(text) > LARGE and self.has_files

    def write(
        self,
        operation: Callable[..., T],
        texts: Sequence[str | None],
        rebuild: Callable[[list[Any]], tuple[Any, ...]],
        runs_of: Callable[[T, list[Any]], Sequence[RunKey | None]],
        *,
        part: Literal["run", "step"],
    ) -> T:
        """Execute an operation with files in place of the large ones of its texts.

        Args:
            rebuild: returns the arguments of the operation, given the texts to store.
            runs_of: returns for each text the run that it was stored with, or ``None``, from the
                operation's result and the texts that were stored.
        """
        with self._stored(texts) as (stored, references):

            def referring(result: T) -> list[tuple[RunKey, Reference]]:
                return [
                    (run_pk, reference)
                    for run_pk, reference in zip(runs_of(result, stored), references, strict=True)
                    if run_pk is not None and reference is not None
                ]

            return self._database.write(
                blobs.referring, operation, referring, part, *rebuild(stored)
            )

    @contextmanager
    def _stored(
        self, texts: Sequence[str | None]
    ) -> Iterator[tuple[list[Any], list[Reference | None]]]:
        pins: list[Pin] = []
        references: list[Reference | None] = []
        stored: list[str | None] = []
        try:
            for text in texts:
                if text is None or not self.is_large(text):
                    stored.append(text)
                    references.append(None)
                    continue
                content = text.encode()
                pins.append(self.folder.put(content))
                reference = Reference(pins[-1].name, len(content))
                references.append(reference)
                stored.append(_text_of(reference))
            yield stored, references
        finally:
            for pin in pins:
                pin.release()

    def read(self, text: str) -> str:
        """Return the text that *text*, which begins with ``FILED``, stands for.

        Raises:
            DatabaseError: the file is missing or damaged, or cannot be read.
        """
        try:
            name = json.loads(text)["file"]
        except (ValueError, KeyError, TypeError):
            name = None
        if not is_name(name):
            raise DatabaseError(
                "it refers to a file in a way that durably never does", is_of_row=True
            )
        try:
            return self.folder.read(name).decode("ascii")
        except UnicodeDecodeError:
            raise DatabaseError(
                f"the file {name!r} is no text of durably's", is_of_row=True
            ) from None

    def remove_dropped(self) -> None:
        """Remove the files to which no run refers any more."""
        names = self._database.read(blobs.dropped)
        if not names:
            return
        # What was deleted must be on the disk before the files are removed.
        self._database.write(blobs.note_try, names)
        if not self._is_synced:
            self._database.wal_checkpoint(above_bytes=0)
        gone = self.folder.remove(names, self._referred)
        free = gone | self._referred(names)
        if free:
            self._database.write(blobs.forget, sorted(free))

    def sweep(self) -> None:
        """Remove what processes have left that were killed, or whose commit failed."""
        self.folder.sweep(
            lambda names: self._database.read(blobs.known, names), self._clock.now_us() / 1e6
        )

    def _referred(self, names: Sequence[str]) -> set[str]:
        return self._database.read(blobs.referred, names)


def _text_of(reference: Reference) -> str:
    return f'{FILED}{{"$":"file","file":"{reference.hash}","size":{reference.size}}}'
