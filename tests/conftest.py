"""What every test shares: nothing that it starts may outlive it."""

from __future__ import annotations

import compileall
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

import durably

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

# How long what a test has already told to end may take for it. Only guards against hanging.
GRACE_S = 10.0
# What tests, and the engine itself, handle. SIGALRM is that of pytest-timeout too.
SIGNALS = (signal.SIGINT, signal.SIGTERM)

# A slow machine is no failure of a property; a failing example can be pasted back. The examples are
# the same in each run, and few, unless `--hypothesis-profile=random` asks for others.
hypothesis.settings.register_profile("random", deadline=None, print_blob=True)
hypothesis.settings.register_profile(
    "durably", hypothesis.settings.get_profile("random"), derandomize=True, max_examples=40
)
hypothesis.settings.load_profile("durably")


# A file system in memory, and how much room there must be for the tests' files.
MEMORY = "/dev/shm"
ROOM_BYTES = 2 << 30


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the delays of ``delays.py``, and another seed than that of each run."""
    parser.addoption(
        "--seed", type=int, default=1, help="the seed of what tests choose at random (default: 1)"
    )
    parser.addoption(
        "--delays",
        type=float,
        metavar="SECONDS",
        help="delay lines of durably at random, by up to this long, to find races",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make a Ctrl-C arrive, here and in child processes; begin the delays, if asked to.

    A shell ignores it for what it starts in the background, where the tests of it would hang.

    The tests' files are in memory, where that is possible and nobody has named another folder
    (``PYTEST_DEBUG_TEMPROOT`` or ``--basetemp``): no test needs a disk, and half of the time of
    all tests would be waiting for one. What a power failure takes is tested with a recorded disk.
    """
    if config.getoption("basetemp") is None and has_room(MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)
    longest_s = config.getoption("--delays")
    if longest_s:
        from delays import Delays  # noqa: PLC0415 - needs a newer Python than the other tests

        delays = Delays(longest_s)
        delays.begin()
        config.add_cleanup(delays.end)
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        # Otherwise each child process compiles the package anew, for half of its time.
        compileall.compile_dir(Path(durably.__file__).parent, quiet=2)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def has_room(folder: str) -> bool:
    """Return whether the tests' files fit into a folder, and programs there may be executed."""
    try:
        found = os.statvfs(folder)
    except (AttributeError, OSError):  # not on Windows; not everywhere
        return False
    is_enough = found.f_bavail * found.f_frsize >= ROOM_BYTES
    return is_enough and not found.f_flag & os.ST_NOEXEC


def pytest_report_header() -> str:
    """Return where the tests' files are."""
    return f"files of tests in {os.environ.get('PYTEST_DEBUG_TEMPROOT', tempfile.gettempdir())}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Allow any text in what is captured: the tests' own processes send UTF-8 to each other."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode())
        for title, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """A test that leaves one of durably's threads alive has failed."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + GRACE_S
    left = []
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("durably"):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                left.append(thread.name)
    assert not left, f"threads that the test has left alive: {', '.join(sorted(left))}"


@pytest.fixture(autouse=True)
def no_signal_handler_is_left() -> Iterator[None]:
    """A test after which a signal does something else than before has failed, and is undone."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    left = [number.name for number in SIGNALS if signal.getsignal(number) != before[number]]
    for number in SIGNALS:
        signal.signal(number, before[number])
    assert not left, f"signals whose handler the test has left changed: {', '.join(left)}"


@pytest.fixture(autouse=True)
def no_child_process_is_left() -> Iterator[None]:
    """A test that leaves a child process running has failed, and the child is ended."""
    before = running_children()
    yield
    deadline = time.monotonic() + GRACE_S
    while (left := running_children() - before) and time.monotonic() < deadline:
        time.sleep(0.01)  # a condition polled with a deadline, reached only by what still ends
    described = [f"{pid} ({command_line(pid)})" for pid in sorted(left)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"child processes that the test has left running: {', '.join(described)}"


def running_children() -> set[int]:
    """The children of this process that have not ended; none where /proc does not say."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            found.update(int(pid) for pid in path.read_text().split())
        except OSError:  # the thread has ended meanwhile
            continue
    # The helpers of multiprocessing and loky live as long as this process.
    return {
        pid
        for pid in found
        if not has_ended(pid)
        and not any(
            helper in command_line(pid)
            for helper in (
                "multiprocessing.resource_tracker",
                "multiprocessing.forkserver",
                "loky.backend.resource_tracker",
            )
        )
    }


def has_ended(pid: int) -> bool:
    """Return whether the process is gone, or a zombie that its parent has yet to ask about."""
    try:
        after_the_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return True
    return after_the_name.split()[0] in "ZX"


def command_line(pid: int) -> str:
    """What the process was started with, empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Return the seed of what a test chooses at random: the same one, unless another is given."""
    seed: int = request.config.getoption("--seed")
    return seed


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Poll a condition until it holds; fail when it does not within ten seconds."""

    def wait_for(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + GRACE_S
        while not condition():
            assert time.monotonic() < deadline, f"never came true: {condition}"
            time.sleep(0.005)

    return wait_for
