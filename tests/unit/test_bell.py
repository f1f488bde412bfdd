"""The bell: who waits is called, and nobody who calls is ever held up."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from durably.store.sqlite.locks.bell import ADDRESS_SIZE, Bell, open_bell

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bells are Linux's")

DEADLINE_S = 20.0


@pytest.fixture
def bells() -> Iterator[list[Bell]]:
    opened = [bell for _ in range(2) if (bell := open_bell()) is not None]
    assert len(opened) == 2
    yield opened
    for bell in opened:
        bell.close()


def test_a_call_ends_the_wait(bells: list[Bell]) -> None:
    """A thread that waits goes on when it is called, long before its time is over."""
    mine, other = bells
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(mine.wait(3600)))
    thread.start()

    other.call(mine.address)

    thread.join(DEADLINE_S)
    assert results == [True]


def test_a_call_from_another_process_ends_the_wait(bells: list[Bell]) -> None:
    """The address is all that a process needs to call, whoever its parent is."""
    mine, _ = bells
    code = (
        "import sys; from durably.store.sqlite.locks.bell import open_bell; "
        "open_bell().call(bytes.fromhex(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, mine.address.hex()], check=True)

    assert mine.wait(3600)


def test_a_wait_ends_when_its_time_is_over(bells: list[Bell]) -> None:
    """Nobody needs to call."""
    assert bells[0].wait(0.001)


def test_a_call_that_nobody_waits_for_is_not_in_the_way(bells: list[Bell]) -> None:
    """However often it calls, the caller is not blocked; nor if nobody is there any more."""
    mine, other = bells
    for _ in range(10_000):
        other.call(mine.address)
    assert mine.wait(3600)

    mine.close()

    other.call(mine.address)
    other.call(b"")
    other.call(bytes(ADDRESS_SIZE))


def test_each_bell_has_an_address_of_its_own(bells: list[Bell]) -> None:
    """All are of one length, as notes to others have room for."""
    addresses = {bell.address for bell in bells}
    assert len(addresses) == 2
    assert {len(address) for address in addresses} == {ADDRESS_SIZE}


def test_who_waits_at_a_closed_bell_is_told(bells: list[Bell]) -> None:
    """It can look by itself then, instead of in vain, again and again."""
    bells[0].close()
    bells[0].close()
    assert not bells[0].wait(3600)


def test_a_forked_child_does_not_answer_for_its_parent(bells: list[Bell]) -> None:
    """The child's copy is closed: a call is for the parent, and ends its wait."""
    mine, other = bells
    pid = os.fork()
    if not pid:
        os._exit(0 if not mine.wait(3600) else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0

    other.call(mine.address)
    assert mine.wait(3600)


def test_without_sockets_there_is_no_bell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no descriptor is left, or none is allowed, who waits looks by itself."""

    def refused(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr("socket.socket", refused)
    assert open_bell() is None
