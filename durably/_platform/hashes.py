"""Hashes of values and of files, the same in each process, to find out whether one has changed."""

from __future__ import annotations

import os

try:
    # hashlib has it from there, and loads OpenSSL as well, which takes ten times as long.
    from _blake2 import blake2b
except ImportError:  # a Python without hash functions of its own
    from hashlib import blake2b

_CHUNK_BYTES = 1 << 20


def hash_of_text(text: str) -> int:
    """Return a hash of a text that fits into a column, and is larger than any of 32 bits."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2 | 1 << 62


def fingerprint_of(path: str | os.PathLike[str]) -> str:
    """Return a text that is another one when the content of a file is: for ``depends_on``.

    ``step.options(on_change="redo", depends_on=durably.fingerprint_of("model.bin"))`` executes a
    step again once the file has changed. The file is read from its beginning to its end, in little
    memory; its name and its times do not count.

    Raises:
        OSError: the file cannot be read. ``FileNotFoundError`` and ``IsADirectoryError`` are among
            these, with its name. Of a folder, pass a list of the fingerprints of its files.

    .. versionadded:: 0.2.0
    """
    found = blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            found.update(chunk)
    return f"blake2b:{found.hexdigest()}"
