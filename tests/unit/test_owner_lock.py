"""The owner's lock: what the kernel knows about other processes, and what a fork does to it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from durably.errors import DatabaseError
from durably.store.sqlite.locks import owner_lock
from durably.store.sqlite.locks.owner_lock import (
    Liveness,
    OwnerLock,
    current_boot_id,
    probe,
    remove_lock,
    sweep_orphans,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from children import Child

fcntl = pytest.importorskip("fcntl")

DEADLINE_S = 20.0

OTHER, ORPHAN, KNOWN, FRESH = (letter * 26 for letter in "ABCD")


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "runs.db")


def given_owner(spawn: Callable[..., Child], database: str, then: str = "hold") -> Child:
    child = spawn("owner_lock", database, then)
    assert child.line() == "ready"
    return child


def verdict(database: str, token: str = OTHER) -> Liveness:
    return probe(database, token)


def is_running(pid: int) -> bool:
    ps = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True
    )
    return ps.stdout.strip()[:1] not in {"", "Z"}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.005)


def test_killed_owner_is_dead_at_once(spawn: Callable[..., Child], database: str) -> None:
    """An owner is alive until it is killed, and dead as soon as it has been."""
    owner = given_owner(spawn, database)
    assert verdict(database) is Liveness.ALIVE

    owner.kill()

    assert verdict(database) is Liveness.DEAD


def test_stopped_owner_is_alive(spawn: Callable[..., Child], database: str) -> None:
    """A process that was stopped still owns its runs."""
    owner = given_owner(spawn, database)
    owner.stop()

    assert verdict(database) is Liveness.ALIVE


def test_forked_child_does_not_keep_a_dead_owner_alive(
    spawn: Callable[..., Child], database: str
) -> None:
    """A child that was forked from an owner has no part in its lock."""
    owner = spawn("owner_lock", database, "fork")
    grandchild = int(owner.line())
    assert owner.line() == "ready"

    owner.kill()

    assert is_running(grandchild)
    # The child lets go as the first thing it does.
    wait_for(lambda: verdict(database) is Liveness.DEAD)
    owner.end_input()
    wait_for(lambda: not is_running(grandchild))


def test_forked_child_leaves_the_owner_alive(spawn: Callable[..., Child], database: str) -> None:
    """What a forked child does with its copy, also releasing it, does not free the owner's lock."""
    given_owner(spawn, database, "fork_and_release")

    assert verdict(database) is Liveness.ALIVE


def test_subprocess_does_not_keep_a_dead_owner_alive(
    spawn: Callable[..., Child], database: str
) -> None:
    """The lock is not inherited by programs that an owner starts, even with close_fds=False."""
    owner = spawn("owner_lock", database, "start_a_program")
    program = int(owner.line())
    assert owner.line() == "ready"

    owner.kill()

    assert is_running(program)
    assert verdict(database) is Liveness.DEAD
    owner.end_input()
    wait_for(lambda: not is_running(program))


def test_missing_lock_file_is_unknown_and_stays_missing(database: str, tmp_path: Path) -> None:
    """Probing an owner without a lock file says so and makes no file."""
    assert verdict(database) is Liveness.UNKNOWN
    assert list(tmp_path.iterdir()) == []


def test_symbolic_link_is_unknown(database: str, tmp_path: Path) -> None:
    """A symbolic link in the place of a lock file is no lock, and is not followed."""
    (tmp_path / "elsewhere").touch()
    Path(f"{database}.owner-{OTHER}").symlink_to(tmp_path / "elsewhere")

    assert verdict(database) is Liveness.UNKNOWN


def test_owner_that_shows_another_boot_id_is_judged_by_its_lock(
    spawn: Callable[..., Child], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that shows a boot id of its own is alive while it holds its lock, and dead after
    that.
    """
    owner = given_owner(spawn, database)
    monkeypatch.setattr(owner_lock, "current_boot_id", lambda: "another")
    assert verdict(database) is Liveness.ALIVE
    owner.kill()
    assert verdict(database) is Liveness.DEAD


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be synced")
def test_name_of_a_lock_file_is_synced_before_it_counts(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a loss of power the file of a stored owner is there, and free: the folder was synced
    when the lock was had.
    """
    synced: list[bool] = []

    def fsync(fd: int) -> None:
        path = Path(f"{database}.owner-{OTHER}")
        synced.append(os.path.samestat(os.fstat(fd), path.parent.stat()) and path.exists())

    monkeypatch.setattr(os, "fsync", fsync)
    OwnerLock.acquire(database, OTHER).release()
    assert synced == [True]


@pytest.mark.skipif(sys.platform not in {"linux", "darwin"}, reason="has no boot id")
def test_boot_id_is_the_same_for_all_processes(spawn: Callable[..., Child]) -> None:
    """Two processes of one start of the machine see one boot id."""
    child = spawn("owner_lock", "", "say_boot_id")

    assert child.line() == current_boot_id() != ""


def test_foreign_open_and_close_does_not_free_the_lock(
    spawn: Callable[..., Child], database: str
) -> None:
    """Code of the owner's process may open and close the lock file; the lock stays."""
    given_owner(spawn, database, "open_and_close_the_file")

    assert verdict(database) is Liveness.ALIVE


def test_probes_do_not_see_each_other(database: str) -> None:
    """While one process probes a dead owner another one finds it dead as well."""
    path = Path(f"{database}.owner-{OTHER}")
    path.touch()
    with path.open("rb") as prober:
        fcntl.flock(prober, fcntl.LOCK_SH)

        assert verdict(database) is Liveness.DEAD


def test_owner_is_alive_to_its_own_process(database: str) -> None:
    """An engine sees another engine of the same process as alive, and probing does not free it."""
    lock = OwnerLock.acquire(database, OTHER)

    assert [verdict(database) for _ in range(3)] == [Liveness.ALIVE] * 3
    lock.release()


def test_lock_file_is_private_and_exclusive(database: str) -> None:
    """The file is the user's alone, and a token is used once."""
    lock = OwnerLock.acquire(database, OTHER)
    assert Path(lock.path).stat().st_mode & 0o777 == 0o600

    with pytest.raises(DatabaseError, match=r"runs\.db\.owner-AAA"):
        OwnerLock.acquire(database, OTHER)

    assert verdict(database, OTHER) is Liveness.ALIVE
    lock.release()


def test_acquiring_in_an_unusable_folder_says_what_to_do(tmp_path: Path) -> None:
    """A lock that cannot be made is a DatabaseError that names the file."""
    with pytest.raises(DatabaseError, match=r"owner-AAA.*folder") as caught:
        OwnerLock.acquire(str(tmp_path / "missing" / "runs.db"), OTHER)
    assert isinstance(caught.value.__cause__, OSError)


def test_release_removes_the_file_and_is_idempotent(database: str) -> None:
    """A lock that was released is gone, and releasing it again touches nothing."""
    lock = OwnerLock.acquire(database, OTHER)
    lock.release()
    assert not Path(lock.path).exists()
    assert not lock.is_held
    successor = OwnerLock.acquire(database, OTHER)

    lock.release()

    assert verdict(database, OTHER) is Liveness.ALIVE
    successor.release()


def test_release_leaves_a_file_that_is_not_its_own(database: str) -> None:
    """If somebody put another file in its place, releasing leaves that one alone."""
    lock = OwnerLock.acquire(database, OTHER)
    Path(lock.path).unlink()
    Path(lock.path).touch()

    lock.release()

    assert Path(lock.path).exists()


def test_lock_without_references_is_held(spawn: Callable[..., Child], database: str) -> None:
    """A lock that nobody refers to says whether the process is alive, as any other does."""
    owner = given_owner(spawn, database, "forget")
    assert verdict(database) is Liveness.ALIVE

    owner.kill()

    # The child lets go as the first thing it does.
    wait_for(lambda: verdict(database) is Liveness.DEAD)


def test_all_names_of_a_database_lead_to_one_lock(database: str, tmp_path: Path) -> None:
    """An owner that opened the database through a symbolic link is seen through its real name."""
    link = tmp_path / "link.db"
    link.symlink_to(database)
    lock = OwnerLock.acquire(str(link), OTHER)

    assert verdict(database, OTHER) is Liveness.ALIVE
    lock.release()


def test_remove_lock_removes_only_what_is_free(spawn: Callable[..., Child], database: str) -> None:
    """The file of a dead owner is removed, that of a live one stays, and a missing one is fine."""
    path = Path(f"{database}.owner-{OTHER}")
    remove_lock(database, OTHER)
    owner = given_owner(spawn, database)
    remove_lock(database, OTHER)
    assert path.exists()
    owner.kill()

    remove_lock(database, OTHER)

    assert not path.exists()


def test_sweep_removes_orphans_only(spawn: Callable[..., Child], database: str) -> None:
    """Swept is what is free, unknown and old: no live lock, no owner's file, none just made."""
    given_owner(spawn, database)
    old = time.time() - 3600
    for token in (ORPHAN, KNOWN, FRESH):
        Path(f"{database}.owner-{token}").touch()
    for token in (ORPHAN, KNOWN, OTHER):
        os.utime(f"{database}.owner-{token}", (old, old))
    foreign = Path(f"{database}2.owner-{ORPHAN}")
    foreign.touch()
    os.utime(foreign, (old, old))

    assert sweep_orphans(database, {KNOWN}, older_than_s=60) == [ORPHAN]

    left = {path.name for path in Path(database).parent.iterdir()}
    assert left == {
        f"runs.db.owner-{KNOWN}",
        f"runs.db.owner-{FRESH}",
        f"runs.db.owner-{OTHER}",
        f"runs.db2.owner-{ORPHAN}",
    }


NO_TOKENS = [
    "",
    ".",
    "../victim",
    "/../../victim",
    "0" * 25,
    "0" * 27,
    "0" * 25 + "o",
    "0" * 25 + "O",
    "0" * 25 + "/",
    "0" * 26 + "\0",
    "0" * 25 + "٣",
]


@pytest.mark.parametrize("token", NO_TOKENS)
def test_what_is_not_a_token_never_becomes_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """An owner with such a token is dead, and no file is opened or removed for it."""
    touched: list[object] = []
    monkeypatch.setattr(
        "durably.store.sqlite.locks.owner_lock._open_existing", lambda *args: touched.append(args)
    )
    database = str(tmp_path / "runs.db")
    assert probe(database, token) is Liveness.DEAD
    remove_lock(database, token)
    assert touched == []
    with pytest.raises(ValueError, match="not the token"):
        OwnerLock.acquire(database, token)
    assert list(tmp_path.iterdir()) == []


def test_sweep_spares_files_of_others(database: str) -> None:
    """A file beside the database whose name begins like that of a lock is the user's own."""
    spared = [Path(f"{database}.owner-{name}") for name in ("notes.txt", "0" * 27, "a" * 26)]
    for path in spared:
        path.touch()
        os.utime(path, (1, 1))
    assert sweep_orphans(database, (), older_than_s=60) == []
    assert all(path.exists() for path in spared)


def test_sweep_of_a_missing_folder_finds_nothing(tmp_path: Path) -> None:
    """There is nothing to sweep where there is no folder."""
    assert sweep_orphans(str(tmp_path / "no" / "runs.db"), (), older_than_s=0) == []


def test_threads_fork_and_lock_at_once(spawn: Callable[..., Child], database: str) -> None:
    """Forks of several threads, while others register and take locks, neither hang nor fail."""
    child = spawn("owner_lock", database, "fork_in_threads")

    assert child.line() == "['a', 'b', 'c', 'd']"
