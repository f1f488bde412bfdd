"""What file system a path lies on, where the system says so: some have no locks to rely on.

SQLite in WAL mode keeps its index in memory that all processes share, and durably tells the living
from the dead by locks of the kernel. Both hold within one machine. On a file system that
several machines have mounted each would have its own, and they would overwrite each other's work.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Final

log = logging.getLogger("durably")

_MOUNTS: Final = "/proc/self/mountinfo"

# As the kernel names them. One behind FUSE has its own name after a dot.
_NETWORK: Final = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "gluster"),
        *("glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2"),
        *("smb", "smb2", "smb3", "smbfs", "virtiofs", "vboxsf", "vmhgfs", "wekafs"),
    }
)
_NETWORK_FUSE: Final = frozenset(
    {
        *("ceph", "ceph-fuse", "cifs", "davfs", "davfs2", "gcsfuse", "glusterfs", "goofys"),
        *("juicefs", "rclone", "s3fs", "s3ql", "seaweedfs", "smbnetfs", "sshfs", "vmhgfs-fuse"),
        *("blobfuse", "blobfuse2", "curlftpfs", "mount-s3", "nfs", "google-drive-ocamlfuse"),
    }
)
_ESCAPED: Final = r"\\([0-7]{3})"


def warn_of_network(path: str) -> None:
    """Log a warning if the database *path* lies on a network file system.

    Knows Linux alone; elsewhere it does nothing.
    """
    try:
        # File names need not be UTF-8, in a table of the kernel neither.
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as stream:
            kind = file_system_of(path, stream.read())
    except OSError:
        return
    if kind is not None and is_network(kind):
        log.warning(
            "the database %r lies on a network file system (%s); its locks do not hold between "
            "machines, and what was committed can be lost or damaged: put it on a local disk",
            path,
            kind,
        )


def is_network(kind: str) -> bool:
    """Whether the file system of that type may be mounted by several machines."""
    is_fuse, _, name = kind.partition(".")
    return kind in _NETWORK or (is_fuse in {"fuse", "fuseblk"} and name in _NETWORK_FUSE)


def file_system_of(path: str, mounts: str) -> str | None:
    """The type of the file system on which *path*, a real path, lies.

    Args:
        mounts: a table in the form of ``/proc/self/mountinfo``.
    """
    found: str | None = None
    longest = -1
    for line in mounts.split("\n"):
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = re.sub(_ESCAPED, _unescaped, fields[4])
        # Of two at one place the later one hides the earlier.
        if len(point) >= longest and _is_below(path, point):
            found, longest = kinds[0], len(point)
    return found


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 8))


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
