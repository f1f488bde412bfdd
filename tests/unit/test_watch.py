"""A watch of a file: woken by the next write to it once it is armed, or by a ring."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from durably.store.sqlite.notify import watch as watching
from durably.store.sqlite.notify.watch import LogWatch, Woken, open_watch

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(os, "eventfd"), reason="there is no inotify"
)

HANG_S = 20.0  # only guards against hanging


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "test.db-wal"
    path.write_bytes(b"")
    return path


@pytest.fixture
def watch(path: Path) -> Iterator[LogWatch]:
    watch = LogWatch(str(path))
    yield watch
    watch._close()


def write(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"frame")


def now(watch: LogWatch, *, for_write: bool = True) -> Woken:
    """What a wait without any time says."""
    return watch.wait(0, for_write=for_write)


def descriptors() -> list[str]:
    """What this process has open, but for the folder that says so."""
    links = list(Path("/proc/self/fd").iterdir())
    return sorted(str(link.readlink()) for link in links if os.path.lexists(link))


def test_write_after_arming_ends_the_wait(watch: LogWatch, path: Path) -> None:
    """Whether it comes before the wait or in it."""
    watch.arm()
    write(path)
    assert watch.wait(HANG_S, for_write=True) is Woken.BY_WRITE


def test_write_while_it_is_not_armed_is_no_event(watch: LogWatch, path: Path) -> None:
    """Neither before the first time, nor between two of them."""
    write(path)
    watch.arm()
    assert now(watch) is Woken.BY_TIME
    watch.disarm()
    write(path)
    watch.arm()
    assert now(watch) is Woken.BY_TIME


def test_writes_are_watched_up_to_the_first(watch: LogWatch, path: Path) -> None:
    """The kernel has nothing more to do for the next ones, nor for any once it is disarmed."""
    assert not is_watched(watch)
    watch.arm()
    assert is_watched(watch)
    write(path)
    assert not is_watched(watch)
    watch.disarm()
    watch.arm()
    assert is_watched(watch)
    watch.disarm()
    assert not is_watched(watch)


def is_watched(watch: LogWatch) -> bool:
    """What the kernel says about the descriptor."""
    return "inotify wd:" in Path(f"/proc/self/fdinfo/{watch._events}").read_text()


def test_write_before_arming_again_is_an_event(watch: LogWatch, path: Path) -> None:
    """As long as neither a wait has told of it nor the watch was disarmed."""
    watch.arm()
    assert now(watch) is Woken.BY_TIME
    write(path)
    watch.arm()
    assert now(watch) is Woken.BY_WRITE
    watch.arm()
    assert now(watch) is Woken.BY_TIME


def test_only_the_first_write_is_an_event(watch: LogWatch, path: Path) -> None:
    """A burst ends one wait; the next one is for what is written after the next arming."""
    watch.arm()
    write(path)
    write(path)
    watch.disarm()
    watch.arm()
    assert now(watch) is Woken.BY_TIME
    write(path)
    assert now(watch) is Woken.BY_WRITE


def test_wait_for_a_ring_alone_is_not_ended_by_a_write(watch: LogWatch, path: Path) -> None:
    """A watch that was left armed harms nobody."""
    watch.arm()
    write(path)
    assert now(watch, for_write=False) is Woken.BY_TIME


@pytest.mark.parametrize("for_write", [False, True])
def test_ring_ends_the_present_or_the_next_wait(watch: LogWatch, *, for_write: bool) -> None:
    """One wait, however often it was rung before, and of whatever length."""
    assert watch.ring()
    assert watch.ring()
    assert watch.wait(1e12, for_write=for_write) is Woken.BY_RING
    assert now(watch, for_write=for_write) is Woken.BY_TIME


def test_forgotten_ring_ends_no_wait(watch: LogWatch) -> None:
    """Forgetting where there was none is fine as well."""
    watch.forget_rings()
    watch.ring()
    watch.forget_rings()
    assert now(watch) is Woken.BY_TIME


def test_file_that_is_not_there_cannot_be_watched(watch: LogWatch, path: Path) -> None:
    """The system's reason is the error's."""
    path.unlink()
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        watch.arm()


def test_descriptors_end_with_the_object(path: Path) -> None:
    """Nobody else refers to them, and none of them is the file's."""
    before = descriptors()
    watch = open_watch(str(path))
    assert watch is not None
    watch.arm()
    assert sorted([*before, "anon_inode:[eventfd]", "anon_inode:inotify"]) == descriptors()
    del watch
    assert descriptors() == before


def test_without_inotify_there_is_no_watch(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no instance left, none is had, and nothing stays open."""
    before = descriptors()

    def refuse(result: int) -> int:
        if result >= 0:
            os.close(result)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(watching, "_checked", refuse)
    assert open_watch(str(path)) is None
    assert descriptors() == before


def test_without_eventfd_there_is_no_watch(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that was built on an old system has no such function."""
    monkeypatch.delattr(os, "eventfd")
    assert open_watch(str(path)) is None


def test_descriptors_that_somebody_has_closed_are_an_error(watch: LogWatch) -> None:
    """A wait does not spin on them, and a ring says that it was in vain."""
    os.close(watch._bell)
    os.close(watch._events)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        watch.wait(HANG_S, for_write=False)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        watch.arm()
    assert not watch.ring()
    watch.forget_rings()
    watch.disarm()


def test_forked_child_has_no_copy(watch: LogWatch, path: Path) -> None:
    """A ring in the child reaches nobody; the parent's watch goes on."""
    watch.arm()
    child = os.fork()
    if child == 0:
        is_clean = False
        try:
            is_clean = not watch.ring() and "anon_inode:inotify" not in descriptors()
        finally:
            os._exit(0 if is_clean else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert now(watch) is Woken.BY_TIME
    write(path)
    assert now(watch) is Woken.BY_WRITE
    watch.ring()
    assert now(watch) is Woken.BY_RING
