"""Large binary parts of values: where they are put while a value is written, and read from."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import IO, Any, Protocol

from durably.codec.forms import Binary, Stream


class StoredPart(Protocol):
    """A file that was put, and that nothing removes before it is released."""

    name: str
    size: int

    def release(self) -> None:
        """Allow the removal of the file if nothing refers to it. Idempotent."""


class TextWithParts(str):
    """A text that refers to files, which nothing removes while this object is alive.

    What stores it stores the references with it, and releases the files when both are committed.
    """

    __slots__ = ("parts",)
    parts: Sequence[StoredPart]

    @classmethod
    def of(cls, text: str, parts: Sequence[StoredPart]) -> str:
        """Return the text, with its files if there are any."""
        if not parts:
            return text
        made = cls(text)
        made.parts = parts
        return made


class Parts(Protocol):
    """The large binary parts of one value."""

    @property
    def stored(self) -> Sequence[StoredPart]:
        """Return what was put into files."""

    def put(self, content: Binary) -> tuple[str, int] | None:
        """Store the content as a file; return its name and size, ``None`` to keep it in the text.

        Raises:
            DatabaseError: it cannot be written.
        """

    def open(self, name: str) -> IO[bytes]:
        """Return the file of that name, opened for reading.

        Raises:
            DatabaseError: it is missing or damaged, or cannot be read.
        """


class Files(Protocol):
    """The files beside a database."""

    def new_parts(self) -> Parts:
        """Return what stores and reads the parts of one value."""

    def read_text(self, text: str) -> str:
        """Return the text that is in a file, as *text* says.

        Raises:
            DatabaseError: the file is missing or damaged, or cannot be read.
        """


class PartsInMemory:
    """Binary parts of a value that is written only to be read again at once."""

    def __init__(self) -> None:
        self.stored: Sequence[StoredPart] = ()
        self._contents: list[Binary] = []

    def put(self, content: Binary) -> tuple[str, int]:
        """Keep the content."""
        self._contents.append(content)
        return str(len(self._contents) - 1), 0

    def open(self, name: str) -> IO[bytes]:
        """Return what was put."""
        return io.BytesIO(bytes_of(self._contents[int(name)]))


def bytes_of(content: Binary) -> bytes | bytearray | memoryview:
    """Return the bytes of binary content."""
    if not isinstance(content, Stream):
        return content
    written = io.BytesIO()
    write: Callable[[Any], object] = content.write
    write(written)
    return written.getbuffer()
