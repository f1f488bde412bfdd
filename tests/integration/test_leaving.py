"""Leaving while steps are in progress: what the logger says, and what a second signal does."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from calls import HANG_S, names_of_threads
from children import Child
from held import HeldJob

import durably
from durably import Durably, RunStatus, StepContext

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to others")

WAYS = [
    "with block",
    "with block that has ended",
    "stop in a finally",
    "close in a finally",
    "stop alone",
    "run_until_idle",
    "end of the script",
]


@contextmanager
def script(way: str, path: Path) -> Iterator[Child]:
    """Start a program that is left in that way, and wait until it is inside its step."""
    with Child("leaves_a_step", path, way, with_errors=True) as child:
        child.expect("inside")
        yield child


def notice(child: Child) -> str:
    """Return the line that says what is waited for; without logging it is on standard error."""
    while "Ctrl-C" not in (line := child.line()):
        pass
    return line


@pytest.mark.timeout(2 * HANG_S)
@pytest.mark.parametrize("way", WAYS)
def test_the_second_ctrl_c_ends_the_process(tmp_path: Path, way: str) -> None:
    """The first one says what is waited for; the run is recovered by the next start, at once."""
    path = tmp_path / "x.db"
    with script(way, path) as child:
        os.kill(child.pid, signal.SIGINT)
        said = notice(child)
        if way == "close in a finally":
            assert said == "Waiting for job 'hang' to end; press Ctrl-C again to leave it"
        else:
            assert said.startswith("Stopping after step 'page-3'; press Ctrl-C ")
        assert not child.has_ended
        os.kill(child.pid, signal.SIGINT)
        assert child.wait() == -signal.SIGINT

    @durably.job(origin="any")
    def hang(step: StepContext) -> str:
        return step.run("page-3", str)

    app = Durably(path, jobs=[hang])
    [run] = app.get_runs()
    assert run.status is RunStatus.RUNNING
    assert app.run_until_idle() == 1
    assert app.get_runs()[0].status is RunStatus.COMPLETED
    app.close()


@pytest.mark.timeout(2 * HANG_S)
def test_the_first_ctrl_c_at_the_end_of_a_script_leaves_its_step(tmp_path: Path) -> None:
    """A script that has come to its end with a step in progress waits, and says how to leave."""
    with script("end of the script inside a step", tmp_path / "x.db") as child:
        assert notice(child) == "Stopping after step 'page-3'; press Ctrl-C to leave it"
        os.kill(child.pid, signal.SIGINT)
        child.wait()


@pytest.mark.timeout(2 * HANG_S)
def test_the_guides_handler_of_sigterm(tmp_path: Path) -> None:
    """It stops at the next step boundary; a second SIGTERM leaves the step, as a Ctrl-C does."""
    with script("with block", tmp_path / "x.db") as child:
        os.kill(child.pid, signal.SIGTERM)
        assert notice(child) == "Stopping after step 'page-3'; press Ctrl-C to leave it"
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait() == 128 + signal.SIGTERM


def press_at(message: str) -> logging.Handler:
    """Press Ctrl-C when that is logged."""

    class Presser(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if message in record.getMessage():
                os.kill(os.getpid(), signal.SIGINT)

    return Presser()


def test_an_engine_that_was_left_closes_behind_its_step(
    tmp_path: Path, eventually: Callable[[Callable[[], object]], None]
) -> None:
    """In a session that goes on it can be used no more, and the run is put back by its end."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    logger, presser = logging.getLogger("durably"), press_at("press Ctrl-C again")
    logger.addHandler(presser)
    hang = HeldJob("hang")
    app = Durably(tmp_path / "x.db", jobs=[hang.job])

    def press() -> None:
        hang.inside()
        os.kill(os.getpid(), signal.SIGINT)

    first = threading.Thread(target=press)
    first.start()
    try:
        with pytest.raises(KeyboardInterrupt), app:
            app.jobs["hang"].trigger_and_wait()
    finally:
        logger.removeHandler(presser)
        signal.signal(signal.SIGINT, before)
        first.join(HANG_S)
    with pytest.raises(durably.EngineClosedError):
        app.get_runs()
    app.stop()
    app.close()
    assert "durably-closing" in names_of_threads()
    hang.let_all_go()
    eventually(lambda: not names_of_threads())
    again = Durably(tmp_path / "x.db", jobs=[hang.job])
    [run] = again.get_runs()
    assert (run.status, run.completed_steps) == (RunStatus.PENDING, 2)
    assert list(tmp_path.glob("*.owner-*")) == []
    again.close()


class TestSayingSo:
    """Runs that wait for the next start are counted."""

    @pytest.mark.parametrize("raised", [SystemExit(0), ValueError("no"), KeyboardInterrupt()])
    def test_what_was_put_back(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, raised: BaseException
    ) -> None:
        """Leaving the block by an exception says how many runs were put back."""
        hang = HeldJob("hang")

        def leave() -> None:
            with Durably(tmp_path / "x.db", jobs=[hang.job], max_workers=1) as app:
                app.jobs["hang"].batch_trigger([None, None])
                hang.inside()
                threading.Timer(0.1, hang.let_all_go).start()
                raise raised

        with pytest.raises(type(raised)):
            leave()
        assert (
            f"1 run was put back to pending, since {type(raised).__name__} has left the with "
            "block; start again to continue it"
        ) in caplog.messages

    def test_what_has_not_begun(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Runs that no worker has come to are counted as well."""

        def leave() -> None:
            with Durably(tmp_path / "x.db", jobs=[HeldJob("hang").job]) as app:
                app.stop()
                app.jobs["hang"].batch_trigger([None, None])
                sys.exit(1)

        with pytest.raises(SystemExit):
            leave()
        [said] = caplog.messages
        assert said == (
            "2 runs are still pending, since SystemExit has left the with block; start again to "
            "execute them"
        )

    def test_nothing_to_say(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """A block that ends well, or has nothing left to do, is silent."""
        hang = HeldJob("hang")
        hang.let_all_go()
        with Durably(tmp_path / "x.db", jobs=[hang.job]) as app:
            app.jobs["hang"].trigger()
        with pytest.raises(ValueError, match="no"), Durably(tmp_path / "x.db", jobs=[hang.job]):
            raise ValueError("no")
        assert caplog.messages == []

    def test_many_steps(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of many steps in progress a few are named."""
        said = []
        hangs = threading.Semaphore(0)
        go = threading.Event()

        @durably.job
        def work(step: StepContext, number: int) -> None:
            step.run(f"page-{number}", lambda: (hangs.release(), go.wait(HANG_S))[0])

        def leave() -> None:
            with Durably(tmp_path / "x.db", jobs=[work], max_workers=5) as app:
                app.jobs["work"].batch_trigger(range(5))
                for _ in range(5):
                    assert hangs.acquire(timeout=HANG_S)
                raise ValueError("no")

        def handle(record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            go.set()

        monkeypatch.setattr(logging.getLogger("durably"), "handle", handle)
        with pytest.raises(ValueError, match="no"):
            leave()
        assert said[0].startswith("Stopping after steps")
        assert said[0].endswith("and 2 more; press Ctrl-C to leave it")
        assert said[0].count("page-") == 3
