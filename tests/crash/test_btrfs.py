"""A btrfs that is full ends no process."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from children import ROOT

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None,
        reason="root makes a btrfs and mounts it",
    ),
]

# Prints "kept" when the index is not copied on write, in each of the openings: a new database, a
# known one, one that a kill has left without its index, and a known one again. Another process
# looks, since closing a descriptor here would drop SQLite's locks. Then fills the file system and
# goes on.
PROGRAM = """
import os, pathlib, subprocess, sys
import durably
path, must_survive = sys.argv[1], sys.argv[2] == "yes"
LOOK = '''
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
(flags,) = struct.unpack_from("i", fcntl.ioctl(fd, 2 << 30 | 8 << 16 | 0x6601, bytes(8)))
print("kept" if flags & 0x00800000 else "copied", oct(os.fstat(fd).st_mode & 0o777))
'''
def look():
    subprocess.run([sys.executable, "-c", LOOK, path + "-shm"], check=True)
@durably.job
def work(step):
    return step.run("one", str, "x" * 2000)
for _ in range(2):
    with durably.Durably(path, jobs=[work]) as app:
        app.jobs["work"].trigger_and_wait()
        look()
pid = os.fork()
if not pid:
    app = durably.Durably(path, jobs=[work])
    app.jobs["work"].trigger()
    os._exit(0)
os.waitpid(pid, 0)
os.unlink(path + "-shm")
app = durably.Durably(path, jobs=[work])
look()
app.close()
app = durably.Durably(path, jobs=[work])
for _ in range(20):
    app.jobs["work"].trigger()
look()
if must_survive:
    os.sync()
    with open(pathlib.Path(path).parent / "fill", "wb", 0) as fill:
        for size in (1 << 16, 1 << 12):
            try:
                while fill.write(os.urandom(size)) == size:
                    pass
            except OSError:
                os.sync()
    told = set()
    for n in range(60):
        os.sync()  # what is mapped has no place in memory alone
        for call in (app.count_runs, app.jobs["work"].trigger, lambda: app.get_runs(limit=1)):
            try:
                call()
            except durably.DatabaseError as exc:
                told.add(str(exc))
    print("the disk is full" in str(told), flush=True)
    os.unlink(pathlib.Path(path).parent / "fill")
    os.sync()
app.close()
from durably.testing import check
print(check(path))
"""


def test_index_of_the_log_is_kept_in_place(tmp_path: Path) -> None:
    """SQLite's index is not copied on write, however the database is opened, so that the full
    file system is an error of a trigger and not the end of the process.
    """
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    with image.open("wb") as stream:
        stream.truncate(130 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
    mounted.mkdir()
    (tmp_path / "program.py").write_text(PROGRAM)
    # Since then a file that is not copied can be written to through its mapping.
    release = tuple(int(part) for part in platform.release().split(".")[:2])
    survives = "yes" if release >= (6, 17) else "no"
    command = f"{sys.executable} {tmp_path}/program.py {mounted}/x.db {survives}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"mount -o loop {image} {mounted} || exit 77; {command}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    full = ["True"] if survives == "yes" else []
    assert done.stdout.splitlines() == ["kept 0o600"] * 4 + full + ["[]"]
