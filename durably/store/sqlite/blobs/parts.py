"""The large binary parts of one value, each a file of its own."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Final

from durably.codec.forms import Binary, Stream
from durably.store.sqlite.blobs.folder import BlobFolder
from durably.store.sqlite.locks.pins import Pin

if TYPE_CHECKING:
    from durably.codec.parts import StoredPart

# So many files of one value are pinned, each by a descriptor: a process may not have many. From
# then on the folder is.
MOST_PINS: Final = 100


class BlobParts:
    """The large binary parts of one value, in files; see ``codec.parts.Parts``.

    Args:
        from_bytes: parts of more bytes become files, ``None`` for no parts.
    """

    def __init__(self, folder: BlobFolder, *, from_bytes: int | None) -> None:
        self.stored: list[StoredPart] = []
        self._folder = folder
        self._from_bytes = from_bytes
        self._pin_of_all: Pin | None = None

    def put(self, content: Binary) -> tuple[str, int] | None:
        """Store the content as a file, unless it is small."""
        given = content if isinstance(content, Stream) else memoryview(content)
        size = given.size if isinstance(given, Stream) else given.nbytes
        if self._from_bytes is None or size <= self._from_bytes:
            return None
        if len(self.stored) >= MOST_PINS and self._pin_of_all is None:
            self._pin_of_all = self._folder.pin_all()
        pin = self._folder.put(given.write if isinstance(given, Stream) else given.cast("B"))
        self.stored.append(pin if self._pin_of_all is None else pin.held_by(self._pin_of_all))
        return pin.name, pin.size

    def open(self, name: str) -> IO[bytes]:
        """Return the file of that name, opened for reading."""
        is_new = any(pin.name == name for pin in self.stored)
        return self._folder.open(name, is_checked=not is_new)
