"""Each call that the folder of large results makes fails, or is the last one of its process: what
was acknowledged is there, what a run refers to is whole, and nothing else stays.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from crash.powerloss_blobs import small_files
from crash.powerloss_recording import CODEC, Part
from invariants import check

import durably
from durably._platform.renaming import rename_to_free
from durably.store.sqlite.blobs import writing

pytestmark = pytest.mark.slow

TEXT = "t" * 3000
# Not every call, but others for each seed.
STEP = 13
CALLS = ("mkdir", "open", "write", "fsync", "unlink")


@durably.job(name="large")
def large(step: durably.StepContext) -> Any:
    text = step.run("text", lambda: TEXT)
    part = step.run("part", lambda: [Part(TEXT[1:]), TEXT])
    items = step.map("items", lambda n: Part(str(n) * 2500), range(2))
    assert (text, part) == (TEXT, [TEXT[1:], TEXT])
    return list(items)


class Interposed:
    """Acts at one of the calls of the system that concern the folder of a database."""

    def __init__(self, database: Path, at: int, act: Callable[[], None]) -> None:
        self._folder = f"{database}.blobs"
        self._parent = str(database.parent)
        self._at = at
        self._act = act
        self.calls = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name in CALLS:
                real = getattr(os, name)
                stack.enter_context(mock.patch.object(os, name, self._wrapped(real)))
            stack.enter_context(
                mock.patch.object(writing, "rename_to_free", self._wrapped(rename_to_free))
            )
            yield

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *args: Any, **kwargs: Any) -> Any:
            if self._concerns(target):
                self.calls += 1
                if self.calls == self._at:
                    self._act()
            return real(target, *args, **kwargs)

        return call

    def _concerns(self, target: Any) -> bool:
        try:
            path = str(
                Path(f"/proc/self/fd/{target}").readlink() if type(target) is int else target
            )
        except OSError:
            return False
        return path.startswith(self._folder) or path == self._parent


def live(database: Path) -> None:
    """Execute a run and delete it, then another one."""
    with durably.Durably(database, jobs=[large], codecs=[CODEC], raise_failed=False) as app:
        run = app.trigger(large)
        run.wait()
        app.delete_run(run.id)
        app.trigger(large).wait()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def examine(database: Path) -> None:
    """Check what is left, go on with it, and remove all of it."""
    assert check(database) == []
    with durably.Durably(database, jobs=[large], codecs=[CODEC], raise_failed=False) as app:
        for run in app.get_runs(status="failed"):
            app.retry(run.id)
        app.run_until_idle()
        for run in app.get_runs():
            assert run.status == "completed"
            assert run.output == ["0" * 2500, "1" * 2500]
            assert [step.name for step in run.steps] == ["text", "part", "items"]
            assert run.steps[1].output == [TEXT[1:], TEXT]
        assert check(database) == []
        app.purge_runs(older_than=0)
        folder = Path(f"{database}.blobs")
        for path in folder.glob("*"):
            os.utime(path, (1, 1))
        app._store.sweep_files()
        assert list(folder.glob("*")) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_each_call_fails_in_turn(tmp_path: Path, seed: int, number: int) -> None:
    """The work of a step waits for room on a full disk; what does not pass fails the run, and the
    next try goes through.
    """

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    failed: list[durably.DurablyError] = []
    with small_files():
        for at in range(1 + seed % STEP, 200, STEP):
            database = tmp_path / str(at) / "runs.db"
            database.parent.mkdir()
            interposed = Interposed(database, at, fail)
            with interposed.active():
                try:
                    live(database)
                except durably.DatabaseError as exc:  # a result cannot be read now
                    failed.append(exc)
                except durably.RunFailedError as exc:
                    failed.append(exc)
            examine(database)
            if interposed.calls < at:
                break
    assert at > 40
    assert all("DatabaseError" in f"{type(exc)} {exc}" for exc in failed)
    runs = [exc for exc in failed if isinstance(exc, durably.RunFailedError)]
    assert bool(runs) == (number == errno.EIO)


def test_the_process_is_killed_before_each_call(tmp_path: Path, seed: int) -> None:
    """The next process goes on with what is there."""
    with small_files():
        for at in range(1 + seed % STEP, 200, STEP):
            database = tmp_path / str(at) / "runs.db"
            database.parent.mkdir()
            child = os.fork()
            if child == 0:
                with Interposed(
                    database, at, lambda: os.kill(os.getpid(), signal.SIGKILL)
                ).active():
                    live(database)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            examine(database)
            if status == 0:
                break
            assert os.WTERMSIG(status) == signal.SIGKILL
    assert at > 40
