"""Find the type of the file system of a path, if the system reports it: some have no usable locks.

SQLite in WAL mode keeps its index in memory that all processes share, and durably decides by locks
of the kernel which process is alive. Both work within one machine. On a file system that several
machines have mounted, each would have its own, and they would overwrite each other's work.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Container, Sequence
from typing import Final

from durably.errors import DatabaseError

logger = logging.getLogger("durably")

_MOUNTS: Final = "/proc/self/mountinfo"

# As the kernel names them. One behind FUSE has its own name after a dot.
_NETWORK: Final = frozenset(
    {
        *("afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "gluster"),
        *("glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2"),
        *("smb", "smb2", "smb3", "smbfs", "wekafs"),
    }
)
_NETWORK_FUSE: Final = frozenset(
    {
        *("ceph", "ceph-fuse", "cifs", "davfs", "davfs2", "gcsfuse", "glusterfs", "goofys"),
        *("juicefs", "rclone", "s3fs", "s3ql", "seaweedfs", "smbnetfs", "sshfs"),
        *("blobfuse", "blobfuse2", "curlftpfs", "mount-s3", "nfs", "google-drive-ocamlfuse"),
    }
)
# A folder of the host in a virtual machine: Docker Desktop's and WSL's, and those of VirtualBox,
# VMware, Parallels, Hyper-V and QEMU. 9p is also what WSL 2 mounts Windows' drives with.
_SHARED: Final = frozenset(
    {
        *("9p", "drvfs", "fakeowner", "grpcfuse", "hgfs", "osxfs", "prl_fs", "vboxsf", "virtiofs"),
        "vmhgfs",
    }
)
_SHARED_FUSE: Final = _SHARED | {"vmhgfs-fuse"}
_ESCAPED: Final = r"\\([0-7]{3})"

# The place of each mount, and the type of its file system.
Mounts = Sequence[tuple[str, str]]


def mount_table() -> Mounts:
    """Return the mounts, as Linux reports them; none on other systems."""
    try:
        # File names need not be UTF-8, not even in a table of the kernel.
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as stream:
            return mounts_in(stream.read())
    except OSError:
        return ()


def mounts_in(table: str) -> Mounts:
    """Return the mounts of a table in the form of ``/proc/self/mountinfo``."""
    mounts = []
    for line in table.split("\n"):
        before, separator, after = line.partition(" - ")
        fields = before.split(" ", 5)
        if separator and len(fields) >= 5:
            point = fields[4]
            if "\\" in point:
                point = re.sub(_ESCAPED, _unescaped, point)
            mounts.append((point, after.partition(" ")[0]))
    return mounts


def refuse_mounted(paths: Sequence[str], mounts: Mounts) -> None:
    """Raise if the database, or a file that belongs to it, is a mount point of its own.

    A container that is given the file alone has the files beside it in a folder of its own: the WAL
    is lost with the container, and its locks exclude no process outside.

    Args:
        paths: the database and the files that belong to it, as real paths.

    Raises:
        DatabaseError: names the file that is mounted.
    """
    points = {point for point, _ in mounts}
    for path in paths:
        if path in points:
            raise DatabaseError(
                f"{path!r} is mounted as a single file: the log and the locks beside it are not "
                "those that other programs see, and commits would be lost. Mount the folder "
                f"{os.path.dirname(path)!r} instead"
            )


def warn_of_shared(path: str, kind: str | None) -> None:
    """Log a warning if a file system of that type is one that several machines share.

    Args:
        path: the database, which is on it.
    """
    if kind is None:
        return
    if is_network(kind):
        what, between = "a network file system", "machines"
    elif is_shared_folder(kind):
        what, between = "a folder that a virtual machine shares with its host", "the two"
    else:
        return
    logger.warning(
        "the database %r lies on %s (%s); its locks do not work between %s, and what was "
        "committed can be lost or damaged: put it on a local disk",
        path,
        what,
        kind,
        between,
    )


def is_network(kind: str) -> bool:
    """Return whether the file system of that type may be mounted by several machines."""
    return _is_among(kind, _NETWORK, _NETWORK_FUSE)


def is_shared_folder(kind: str) -> bool:
    """Return whether the file system of that type shares a host's files with a virtual machine."""
    return _is_among(kind, _SHARED, _SHARED_FUSE)


def _is_among(kind: str, kinds: Container[str], behind_fuse: Container[str]) -> bool:
    is_fuse, _, name = kind.partition(".")
    return kind in kinds or (is_fuse in {"fuse", "fuseblk"} and name in behind_fuse)


def file_system_of(path: str, mounts: Mounts) -> str | None:
    """Return the type of the file system that *path*, a real path, is on."""
    found: str | None = None
    longest = -1
    for point, kind in mounts:
        # Of two mounts at one place the later one hides the earlier.
        if len(point) >= longest and _is_below(path, point):
            found, longest = kind, len(point)
    return found


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 8))


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
