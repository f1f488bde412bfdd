"""The database and everything beside it is readable for its owner alone, whatever the umask."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
from children import execute

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes of files")


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_every_file_is_private_at_every_moment(tmp_path: Path, umask: str) -> None:
    """The database, its journal, log and shared memory, the writers' mutex and the owners' locks
    are made with mode 0600, from the moment at which they are there.
    """
    done = execute("notes_modes", tmp_path / "runs.db", umask)
    assert done.returncode == 0, done.stderr
    kinds, _, modes = done.stdout.strip().splitlines()[-1].partition(" | ")
    assert {"-wal", "-shm", ".owner", ".writer"} <= set(kinds.split())
    assert modes == "0o600"
    left = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    assert left == {"runs.db": 0o600, "runs.db.writer": 0o600}
