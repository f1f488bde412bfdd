"""Advice about an error of the operating system with a file, in a user's words."""

from __future__ import annotations

import errno
from typing import Final

from durably.errors import DatabaseError

_ADVICE: Final = {
    errno.EACCES: "check the permissions of the file and of its folder",
    errno.EPERM: "check the permissions of the file and of its folder",
    errno.EROFS: "it is mounted read-only: put the database elsewhere",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EMFILE: "let this process open more files (ulimit -n)",
    errno.ENFILE: "close programs: the whole system has too many files open",
    errno.ELOOP: "check the path",
    errno.ENOENT: "check the path and its folder",
    errno.ENOTDIR: "check the path and its folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def advice_on(exc: OSError) -> str:
    """Return what to do about a file that the system cannot make or open."""
    return _ADVICE.get(exc.errno or 0, "the system's log (dmesg) says more")


def unseen(path: str, exc: OSError) -> DatabaseError:
    """Return the error for a file or a folder that the system cannot report on."""
    return DatabaseError(f"{path!r} cannot be inspected: {exc.strerror or exc}; {advice_on(exc)}")
