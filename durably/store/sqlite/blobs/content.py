"""What is in the files of the folder: their names, and how they are written and compared."""

from __future__ import annotations

import io
import os
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import queue
    import threading

PIECE: Final = 4 * 1024 * 1024
# What is hashed stays in the processor's caches.
_READ_BYTES: Final = 256 * 1024
_DIGEST_BYTES: Final = 32


def name_of(content: bytes | memoryview) -> str:
    """Return the name of the file with that content."""
    hashed = _new_hash()
    hashed.update(content)
    return str(hashed.hexdigest())


def name_of_file(file: IO[bytes]) -> str:
    """Return the name that stands for the content of a file, and leave it at its beginning."""
    hashed = _new_hash()
    _read_into(hashed, file, None)
    file.seek(0)
    return str(hashed.hexdigest())


class Writing(io.RawIOBase):
    """A binary file that writes to a descriptor, and is hashed by another thread meanwhile.

    The thread reads what was written, so that the name is that of the file, whatever the caller
    does with its buffers.

    Args:
        fd: of an empty file, which is not closed here.
        path: leads to it.

    Attributes:
        error: what a write has failed with, which a library may have raised as something else.
    """

    def __init__(self, fd: int, path: str) -> None:
        import queue  # noqa: PLC0415 - where first needed
        import threading  # noqa: PLC0415 - where first needed

        self.error: OSError | None = None
        self._fd = fd
        self._size = self._announced = 0
        self._hash = _new_hash()
        self._hash_error: OSError | None = None
        self._read: IO[bytes] = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._sizes: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = threading.Thread(
            target=self._hash_all, name="durably-hash", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter ends: hashed when all is written
            self._thread = None

    def writable(self) -> bool:
        """Return true."""
        return True

    def write(self, data: Any) -> int:
        """Write all of the data.

        Raises:
            OSError: it cannot be written.
        """
        view = memoryview(data).cast("B")
        left = view
        try:
            while left:
                count = os.write(self._fd, left[:PIECE])
                left = left[count:]
                self._size += count
                if self._size - self._announced >= PIECE:  # seldom: the threads share one lock
                    self._announced = self._size
                    self._sizes.put(self._size)
        except OSError as exc:
            self.error = exc
            raise
        return len(view)

    def name(self) -> str:
        """Return the name of the file, all of which is written.

        Raises:
            OSError: it cannot be read.
        """
        self._end_thread()
        if self._hash_error is not None:
            raise self._hash_error
        return str(self._hash.hexdigest())

    def close(self) -> None:
        """End the thread. Idempotent."""
        if not self.closed:
            self._end_thread()
            self._read.close()
        super().close()

    def _end_thread(self) -> None:
        self._sizes.put(self._size)
        self._sizes.put(None)
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        elif not self._sizes.empty():
            self._hash_all()

    def _hash_all(self) -> None:
        done = 0
        try:
            for size in iter(self._sizes.get, None):
                _read_into(self._hash, self._read, size - done)
                done = size
        except OSError as exc:
            self._hash_error = exc


def _read_into(hashed: Any, file: IO[bytes], count: int | None) -> None:
    """Hash the next *count* bytes of a file, ``None`` for all of it."""
    buffer = memoryview(bytearray(_READ_BYTES))
    left = count
    while left is None or left > 0:
        wanted = buffer if left is None else buffer[:left]
        found: int = file.readinto(wanted)  # type: ignore[attr-defined]  # a raw or buffered file
        if not found:
            return
        hashed.update(buffer[:found])
        left = None if left is None else left - found


def _new_hash() -> Any:
    import hashlib  # noqa: PLC0415 - where first needed: it loads the cryptography library

    return hashlib.blake2b(digest_size=_DIGEST_BYTES)
