"""A btrfs that is full ends no process."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from children import execute

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None,
        reason="root makes a btrfs and mounts it",
    ),
]


def test_index_of_the_log_is_kept_in_place(tmp_path: Path) -> None:
    """SQLite's index is not copied on write, however the database is opened, so that the full
    file system is an error of a trigger and not the end of the process.
    """
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    with image.open("wb") as stream:
        stream.truncate(130 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
    mounted.mkdir()
    # Since then a file that is not copied can be written to through its mapping.
    release = tuple(int(part) for part in platform.release().split(".")[:2])
    survives = "yes" if release >= (6, 17) else "no"
    script = f'mount -o loop {image} {mounted} || exit 77; exec "$@"'
    under = ["unshare", "-m", "sh", "-c", script, "sh"]
    done = execute("fills_btrfs", mounted / "x.db", survives, under=under)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    full = ["True"] if survives == "yes" else []
    assert done.stdout.splitlines() == ["kept 0o600"] * 4 + full + ["[]"]
