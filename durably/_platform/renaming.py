"""Rename a file to a name that is free, in one step."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import Final

# Where the system or its file system cannot do it.
_UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1  # of Linux
_RENAME_EXCL: Final = 4  # of macOS


def rename_to_free(old: str, new: str) -> None:
    """Rename the file *old* to *new*, unless there is something of that name.

    Where the system cannot do both at once (some network file systems), a file that is made there
    at the same moment may be replaced.

    Raises:
        FileExistsError: there is.
        OSError: it cannot be renamed.
    """
    number = _rename_exclusively(os.fsencode(old), os.fsencode(new))
    if number in _UNSUPPORTED:
        if os.path.lexists(new):
            number = errno.EEXIST
        else:
            os.rename(old, new)  # on Windows, this never replaces a file
            return
    if number:
        raise OSError(number, os.strerror(number), old, None, new)


def _rename_exclusively(old: bytes, new: bytes) -> int:
    """Return 0, or the error of the system."""
    if sys.platform == "win32":
        return errno.ENOSYS
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            failed = library.renamex_np(old, new, _RENAME_EXCL)
        else:
            failed = library.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE)
    except (OSError, AttributeError):
        return errno.ENOSYS
    return ctypes.get_errno() if failed else 0
