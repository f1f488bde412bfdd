r"""Large values of a database as files: what becomes one, who refers to it, what is removed.

A text that is a file is stored as ``\n{"$":"file","file":"<hash>","size":<bytes>}``. No other text
that durably stores begins with a line feed, and JSON tools still read it. If values in such a text
have parts that are files, it has their names as ``"parts"``: so the name of each file that a row
refers to is in that row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from durably._platform.clock import Clock
from durably.codec.json_text import FILED, dump
from durably.errors import DatabaseError
from durably.settings import Synchronous
from durably.store.rows import RunKey
from durably.store.sqlite.blobs.belonging import SUFFIX
from durably.store.sqlite.sql import blobs
from durably.store.sqlite.sql.blobs import Reference

if TYPE_CHECKING:
    from durably.codec.parts import Parts
    from durably.store.sqlite.blobs.folder import BlobFolder
    from durably.store.sqlite.database import Database
    from durably.store.sqlite.locks.pins import Pin
    from durably.store.sqlite.read_only import ReadOnlyFile

T = TypeVar("T")

# Texts of more characters, each of which is a byte, and binary parts of more bytes become files.
LARGE: Final = 4 * 1024 * 1024


class Filing:
    """Stores large values of one database in its folder. Usable from any thread.

    What does so is imported when there is a large value, or the folder.

    Args:
        folder: the path of the folder; by default the one beside the database.
        files: whether large values become files; those that are files can be read in any case.

    Attributes:
        has_files: likewise.
    """

    def __init__(
        self,
        database: Database | ReadOnlyFile,
        folder: str | None = None,
        *,
        files: bool = True,
        synchronous: Synchronous = "full",
        clock: Clock | None = None,
    ) -> None:
        self._path = database.path + SUFFIX if folder is None else folder
        self._database = database
        self.has_files = files
        self._is_synced = synchronous == "full"
        self._clock = clock or Clock()

    @cached_property
    def folder(self) -> BlobFolder:
        """Return the files in the folder."""
        from durably.store.sqlite.blobs.folder import (  # noqa: PLC0415 - where first needed
            BlobFolder,
        )

        return BlobFolder(self._path, self._database.path, is_synced=self._is_synced)

    @property
    def has_folder(self) -> bool:
        """Return whether there is a folder: it is made when the first file is stored."""
        return os.path.isdir(self._path)

    def new_parts(self) -> Parts:
        """Return what stores and reads the binary parts of one value."""
        from durably.store.sqlite.blobs.parts import BlobParts  # noqa: PLC0415 - where first needed

        return BlobParts(self.folder, from_bytes=LARGE if self.has_files else None)

    def refers(self, text: str | None) -> bool:
        """Return whether a text becomes a file, or has parts that are files."""
        return text is not None and (
            type(text) is not str or (len(text) > LARGE and self.has_files)
        )

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
        try:
            with self._stored(texts) as (stored, references):

                def referring(result: T) -> list[tuple[RunKey, Reference]]:
                    return [
                        (run_pk, reference)
                        for run_pk, those in zip(runs_of(result, stored), references, strict=True)
                        for reference in those
                        if run_pk is not None
                    ]

                result = self._database.write(
                    blobs.referring, operation, referring, part, *rebuild(stored)
                )
        except DatabaseError as exc:
            if not exc.is_transient:  # else the caller may try to store the same texts again
                _release(texts)
            raise
        _release(texts)
        return result

    @contextmanager
    def _stored(self, texts: Sequence[str | None]) -> Iterator[tuple[list[Any], list[Any]]]:
        """Yield the texts to store in place of *texts*, and the references of each."""
        pins: list[Pin] = []
        references: list[list[Reference]] = []
        stored: list[str | None] = []
        try:
            for text in texts:
                parts = [Reference(each.name, each.size) for each in getattr(text, "parts", ())]
                if text is not None and len(text) > LARGE and self.has_files:
                    content = text.encode()
                    pins.append(self.folder.put(content))
                    reference = Reference(pins[-1].name, len(content))
                    references.append([reference, *parts])
                    stored.append(_text_of(reference, parts))
                else:
                    references.append(parts)
                    stored.append(None if text is None else str(text))
            yield stored, references
        finally:
            for pin in pins:
                pin.release()

    def read_text(self, text: str) -> str:
        """Return the text that *text*, which begins with ``FILED``, stands for.

        Raises:
            DatabaseError: the file is missing or damaged, or cannot be read.
        """
        from durably.store.sqlite.blobs.folder import is_name  # noqa: PLC0415 - where first needed

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


def _text_of(reference: Reference, parts: Sequence[Reference]) -> str:
    names = f',"parts":{dump([part.hash for part in parts])}' if parts else ""
    return f'{FILED}{{"$":"file","file":"{reference.hash}","size":{reference.size}{names}}}'


def _release(texts: Sequence[str | None]) -> None:
    """Allow the removal of the parts of texts."""
    for text in texts:
        for part in getattr(text, "parts", ()):
            part.release()
