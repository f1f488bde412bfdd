"""A database that machines share is warned of, and one that is mounted alone is rejected."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from children import execute

from durably.errors import DatabaseError
from durably.store.sqlite.connection import filesystem
from durably.store.sqlite.connection.filesystem import (
    file_system_of,
    is_network,
    is_shared_folder,
    mount_table,
    mounts_in,
    refuse_mounted,
    warn_of_shared,
)
from durably.store.sqlite.database import Database

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

LOCAL = ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuseblk", "fuse.ntfs-3g", "fuse")
SHARED = (
    *("fakeowner", "grpcfuse", "fuse.grpcfuse", "osxfs", "fuse.osxfs", "drvfs", "9p", "virtiofs"),
    *("prl_fs", "fuse.prl_fs", "vboxsf", "vmhgfs", "fuse.vmhgfs-fuse"),
)


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
    assert file_system_of(path, mounts_in(MOUNTS)) == kind


def test_table_that_says_nothing() -> None:
    """Without a mount above the path, or without a table, nothing is known."""
    assert file_system_of("/data/runs.db", mounts_in("")) is None
    assert file_system_of("/data/runs.db", mounts_in(MOUNTS.split("\n", 2)[0])) is None


def test_which_are_network_file_systems() -> None:
    """What machines share by a network is one, also behind FUSE."""
    network = ("nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.sshfs", "fuse.s3fs")
    assert [kind for kind in network if not is_network(kind)] == []
    assert [kind for kind in (*LOCAL, *SHARED) if is_network(kind)] == []


def test_which_are_shared_with_a_virtual_machine() -> None:
    """What Docker Desktop, WSL and the makers of virtual machines show of the host is one."""
    assert [kind for kind in SHARED if not is_shared_folder(kind)] == []
    assert [kind for kind in LOCAL if is_shared_folder(kind)] == []


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("nfs4", "a network file system (nfs4)"),
        ("fakeowner", "a folder that a virtual machine shares with its host (fakeowner)"),
        ("fuse.grpcfuse", "a folder that a virtual machine shares with its host (fuse.grpcfuse)"),
    ],
)
def test_opening_warns_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    says: str,
) -> None:
    """Opening logs one warning that names the file, the type and what to do, and goes on."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"30 27 0:41 / {tmp_path} rw - {kind} server:/ rw\n")
    monkeypatch.setattr(filesystem, "_MOUNTS", str(mounts))
    with caplog.at_level(logging.WARNING, logger="durably"):
        Database(tmp_path / "runs.db").close()
    (record,) = caplog.records
    for part in (str(tmp_path / "runs.db"), says, "put it on a local disk"):
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
    path = str(tmp_path / "runs.db")
    warn_of_shared(path, file_system_of(path, mount_table()))
    refuse_mounted([path], mount_table())
    assert caplog.records == []


FILES = r"""1 0 0:1 / / rw - ext4 /dev/vda rw
40 1 254:1 /a/jobs.db /app/jobs.db rw - ext4 /dev/vdb rw
41 1 254:1 /b /my\040data/with\134slash rw - ext4 /dev/vdb rw
42 1 254:1 /c/t.db /my\040data/t\011ab.db rw - fakeowner x rw
43 1 254:1 /d /data rw - ext4 /dev/vdb rw
44 1 254:1 /e-wal /log/jobs.db-wal rw - ext4 /dev/vdb rw
45 1 254:1 /f/größe.db /app/größe.db rw - ext4 /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("paths", "is_mounted"),
    [
        (["/app/jobs.db", "/app/jobs.db-wal"], True),
        (["/my data/t\tab.db"], True),
        (["/log/jobs.db", "/log/jobs.db-wal"], True),
        (["/app/größe.db"], True),
        (["/app/jobs.db2"], False),
        (["/app/jobs"], False),
        (["/data/jobs.db"], False),
        (["/my data/with\\slash/jobs.db"], False),
        (["/jobs.db"], False),
    ],
)
def test_file_that_is_mounted_alone(paths: list[str], is_mounted: bool) -> None:
    """A database, or what belongs to it, that is a mount point itself is rejected, and the message
    names the folder to mount; one in a folder that is mounted is not.
    """
    if not is_mounted:
        refuse_mounted(paths, mounts_in(FILES))
        return
    folder = paths[0].rpartition("/")[0]
    with pytest.raises(DatabaseError, match="mounted as a single file") as caught:
        refuse_mounted(paths, mounts_in(FILES))
    assert f"Mount the folder {folder!r} instead" in str(caught.value)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="mounts in a namespace of its own")
@pytest.mark.parametrize("is_linked", [False, True], ids=["by its name", "by a link"])
@pytest.mark.parametrize("is_there", [False, True], ids=["empty", "known"])
def test_opening_a_mounted_file(tmp_path: Path, is_linked: bool, is_there: bool) -> None:
    """Opening and checking raise before anything is made beside the file, also through a link."""
    (tmp_path / "host").mkdir()
    (tmp_path / "app").mkdir()
    host, mounted = tmp_path / "host" / "x.db", tmp_path / "app" / "x.db"
    mounted.touch()
    host.touch()
    if is_there:
        Database(host).close()
    (tmp_path / "link.db").symlink_to(mounted)
    given = tmp_path / "link.db" if is_linked else mounted
    script = f'mount --bind {host} {mounted} && exec "$@"'
    under = ["unshare", "-m", "sh", "-c", script, "sh"]
    done = execute("opens_and_checks", given, under=under)
    if done.returncode:
        if "Error" not in done.stderr:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        pytest.fail(done.stderr)
    assert done.stdout.count("mounted as a single file") == 2
    assert done.stdout.count(f"Mount the folder {str(mounted.parent)!r}") == 2
    assert [each.name for each in mounted.parent.iterdir()] == ["x.db"]
