"""A database on a network file system is warned of."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from durably.store import filesystem
from durably.store.database import Database
from durably.store.filesystem import file_system_of, is_network, warn_of_network

MOUNTS = r"""22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:41 / /home rw,relatime shared:2 master:1 - nfs4 server:/home rw,vers=4.2
31 30 0:42 / /home/local rw - xfs /dev/vdb rw
32 27 0:43 / /mnt/my\040share rw - cifs //server/share rw
33 27 0:44 / /mnt/sshed rw,nosuid - fuse.sshfs me@there:/ rw,user_id=0
34 27 0:45 / /mnt/ntfs rw - fuseblk /dev/sda1 rw
35 27 0:46 / /shadowed rw - nfs server:/ rw
36 27 0:47 / /shadowed rw - tmpfs tmpfs rw
this line is none
37 27
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/runs.db", "ext4"),
        ("/runs.db", "ext4"),
        ("/home/me/runs.db", "nfs4"),
        ("/home/local/runs.db", "xfs"),
        ("/home/locally/runs.db", "nfs4"),
        ("/homely/runs.db", "ext4"),
        ("/mnt/my share/runs.db", "cifs"),
        ("/mnt/sshed/deep/down/runs.db", "fuse.sshfs"),
        ("/shadowed/runs.db", "tmpfs"),
    ],
)
def test_file_system_is_that_of_the_nearest_mount(path: str, kind: str) -> None:
    """The longest mount point above the path counts, the later one where two are the same."""
    assert file_system_of(path, MOUNTS) == kind


def test_table_that_says_nothing() -> None:
    """Without a mount above the path, or without a table, nothing is known."""
    assert file_system_of("/data/runs.db", "") is None
    assert file_system_of("/data/runs.db", MOUNTS.split("\n", 2)[0]) is None


def test_which_are_network_file_systems() -> None:
    """What machines share by a network or with their host is one, also behind FUSE."""
    network = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "virtiofs", "fuse.sshfs", "fuse.s3fs")
    local = ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuseblk", "fuse.ntfs-3g", "fuse")
    assert [kind for kind in network if not is_network(kind)] == []
    assert [kind for kind in local if is_network(kind)] == []


def test_opening_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Opening logs one warning that names the file, the type and what to do, and goes on."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"30 27 0:41 / {tmp_path} rw - nfs4 server:/ rw\n")
    monkeypatch.setattr(filesystem, "_MOUNTS", str(mounts))
    with caplog.at_level(logging.WARNING, logger="durably"):
        Database(tmp_path / "runs.db").close()
    (record,) = caplog.records
    for part in (str(tmp_path / "runs.db"), "nfs4", "put it on a local disk"):
        assert part in record.getMessage()


@pytest.mark.parametrize("mounts", ["1 0 0:1 / / rw - ext4 /dev/vda rw\n", None])
def test_nothing_is_said_of_a_local_disk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mounts: str | None,
) -> None:
    """A local file system is no reason for a warning, nor is a system that has no table."""
    table = tmp_path / "mounts"
    if mounts is not None:
        table.write_text(mounts)
    monkeypatch.setattr(filesystem, "_MOUNTS", str(table))
    warn_of_network(str(tmp_path / "runs.db"))
    assert caplog.records == []
