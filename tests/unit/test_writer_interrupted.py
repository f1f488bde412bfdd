"""A Ctrl-C in the thread that commits for others neither loses nor doubles what is theirs."""

from __future__ import annotations

import dis
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import apsw
import pytest
from storekit import FakeClock, connect

import durably.store.sqlite.connection.writer
import durably.store.sqlite.locks.mutex
from durably.errors import ConflictError, DatabaseError
from durably.store.sqlite.connection.write_request import single_statement
from durably.store.sqlite.connection.writer import GroupCommitWriter
from durably.store.sqlite.locks.mutex import WriterMutex

# Where CPython looks for signals: after a call, on entering a function, on going back in a loop.
LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD")


# Where an interrupt may land: in all that the thread does between its call and its return.
WRITERS = {
    module.__file__
    for module in (
        durably.store.sqlite.connection.write_request,
        durably.store.sqlite.connection.batch_executor,
        durably.store.sqlite.connection.operation_runner,
        durably.store.sqlite.connection.writer,
    )
}


class Interrupter:
    """Raises KeyboardInterrupt at chosen points of the writer's code, in the calling thread."""

    files = WRITERS

    def __init__(self, *points: int) -> None:
        self._points = set(points)
        self._last: dict[int, str] = {}
        self.passed = 0
        self.where: list[str] = []

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        is_operation = code.co_filename == __file__ and code.co_name == "operation"
        if not is_operation and code.co_filename not in self.files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            last = self._last.get(id(frame), "")
            self._last[id(frame)] = name
            if last.startswith(LOOKS):
                self.passed += 1
                if self.passed in self._points:
                    self.where.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
                    raise KeyboardInterrupt
        else:
            # Not on the way to a handler either.
            self._last.pop(id(frame), None)
        return self


class LeaderFirst:
    """A lock that the leader gets first, when the others have queued up behind it."""

    def __init__(self, lock: Any, queue_up: Callable[[], None]) -> None:
        self._lock = lock
        self._leader = threading.get_ident()
        self._queue_up = queue_up
        self.has_led = threading.Event()

    def locked(self) -> bool:
        is_follower = threading.get_ident() != self._leader
        return self._lock.locked() or (is_follower and not self.has_led.is_set())

    def __enter__(self) -> None:
        if threading.get_ident() == self._leader:
            self._queue_up()
        else:
            assert self.has_led.wait(10)
        self._lock.acquire()
        self.has_led.set()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


def put(name: str) -> Callable[[apsw.Connection], str]:
    def operation(db: apsw.Connection) -> str:
        db.execute("INSERT INTO effects VALUES (?)", (name,))
        return name

    return operation


def put_unless(name: str, other: str) -> Callable[[apsw.Connection], str]:
    """Like a verb that the state of a run rejects."""

    def operation(db: apsw.Connection) -> str:
        db.execute("INSERT INTO effects VALUES (?)", (name,))
        if db.execute("SELECT count(*) FROM effects WHERE name = ?", (other,)).get:
            raise ConflictError(name)
        return name

    return operation


def queueing(
    own: Callable[[apsw.Connection], str], queue_up: Callable[[], None]
) -> Callable[[apsw.Connection], str]:
    """*own*, during which others queue up."""

    def operation(db: apsw.Connection) -> str:
        result = own(db)
        queue_up()
        return result

    is_single = getattr(own, "is_single_statement", False)
    return single_statement(operation) if is_single else operation


class Scene:
    """A leader that is interrupted, and three threads that wait behind it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = connect(path)
        self.db.execute("CREATE TABLE IF NOT EXISTS effects (name TEXT)")
        clock = FakeClock()
        self.mutex = WriterMutex(str(path), clock)
        self.fails = False
        self.db.set_commit_hook(lambda: self.fails)
        self.writer = GroupCommitWriter(self.db, path=str(path), mutex=self.mutex, clock=clock)

    def play(
        self,
        interrupter: Interrupter,
        own: Callable[[apsw.Connection], str],
        *,
        commits_fail: bool = False,
        late: Sequence[str] = (),
    ) -> None:
        """Execute *own*, with followers queued before it, or those named *late* during it."""
        writer = self.writer
        self.db.execute("DELETE FROM effects")
        self.fails = commits_fail
        operations = {
            "plain": put("plain"),
            "single": single_statement(put("single")),
            "unless": put_unless("unless", "leader"),
        }
        if late:
            operations = {name: operations[name] for name in late}
        outcomes: dict[str, Any] = {}

        def follow(name: str) -> None:
            try:
                outcomes[name] = writer.run(operations[name])
            except BaseException as exc:
                outcomes[name] = exc

        followers = [threading.Thread(target=follow, args=(name,)) for name in operations]

        def queue_up() -> None:
            for number, thread in enumerate(followers, len(writer._queue) + 1):
                if thread.ident is None:
                    thread.start()
                    while len(writer._queue) < number:
                        assert thread.is_alive()

        lock = writer._lock
        writer._lock = first = LeaderFirst(  # type: ignore[assignment]
            lock, (lambda: None) if late else queue_up
        )
        before = sys.gettrace()
        try:
            # Python 3.12 tells of opcodes only if somebody has asked for it before.
            sys._getframe().f_trace_opcodes = True
            sys.settrace(interrupter)
            outcomes["leader"] = writer.run(queueing(own, queue_up) if late else own)
        except (KeyboardInterrupt, DatabaseError) as exc:
            outcomes["leader"] = exc
        finally:
            sys.settrace(before)
        if not late:
            queue_up()  # if it did not come that far
        first.has_led.set()
        for thread in [each for each in followers if each.ident is None]:
            thread.start()
        for thread in followers:
            thread.join(10)
            assert not thread.is_alive(), interrupter.where
        writer._lock = lock
        self.check(outcomes, interrupter.where)

    def check(self, outcomes: dict[str, Any], where: list[str]) -> None:
        assert not self.db.in_transaction, where
        rows = [name for (name,) in self.db.execute("SELECT name FROM effects").fetchall()]
        for name, outcome in outcomes.items():
            if isinstance(outcome, KeyboardInterrupt):
                # Whether it was stored is for its caller to find out, but never twice.
                assert name == "leader", where
                assert rows.count(name) <= 1, where
            elif isinstance(outcome, DatabaseError):
                assert (self.fails, rows) == (True, []), where
            elif isinstance(outcome, ConflictError):
                assert (name, rows.count(name)) == ("unless", 0), where
                assert "leader" in rows, where
            else:
                assert outcome == name, (where, outcome)
                assert rows.count(name) == 1, where
        self.fails = False
        assert self.writer.run(put("after")) == "after"
        self.db.execute("DELETE FROM effects")


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    # Many a point is one after which nobody opens the next latch.
    monkeypatch.setattr(durably.store.sqlite.connection.writer, "_LATCH_S", 0.002)
    made = Scene(tmp_path / "test.db")
    yield made
    made.writer.close()


@pytest.mark.parametrize("own", [put("leader"), single_statement(put("leader"))])
def test_interrupt_anywhere_in_the_leader_harms_no_follower(
    scene: Scene, own: Callable[[apsw.Connection], str]
) -> None:
    """Each follower's operation is stored exactly once, or it gets an error and it is not."""
    complete = Interrupter()
    scene.play(complete, own)
    assert complete.passed > 30
    landed = set()
    for point in range(1, complete.passed + 1):
        interrupter = Interrupter(point)
        scene.play(interrupter, own)
        landed.update(interrupter.where)
    functions = {each.split(":")[0] for each in landed}
    assert {"run", "_lead", "_take", "_transact", "_execute_together", "operation"} <= functions


@pytest.mark.parametrize("own", [put("leader"), single_statement(put("leader"))])
@pytest.mark.parametrize("late", [["single"], ["plain", "single"]])
def test_interrupt_anywhere_in_leading_once_more_harms_no_follower(
    scene: Scene, own: Callable[[apsw.Connection], str], late: list[str]
) -> None:
    """What the leader executes for those who came meanwhile is theirs, stored exactly once."""
    complete = Interrupter()
    scene.play(complete, own, late=late)
    assert complete.passed > 30
    for point in range(1, complete.passed + 1):
        scene.play(Interrupter(point), own, late=late)


def test_interrupt_beside_a_failing_commit_harms_no_follower(scene: Scene) -> None:
    """What could not be committed is never reported as committed."""
    complete = Interrupter()
    scene.play(complete, put("leader"), commits_fail=True)
    for point in range(1, complete.passed + 1):
        scene.play(Interrupter(point), put("leader"), commits_fail=True)


def test_second_interrupt_in_the_settling_harms_no_follower(scene: Scene) -> None:
    """Neither does one that lands while the first one is being dealt with."""
    complete = Interrupter()
    scene.play(complete, put("leader"))
    for point in range(1, complete.passed + 1, 2):
        for later in (1, 2, 3, 5, 8):
            scene.play(Interrupter(point, point + later), put("leader"))


def test_interrupted_waiter_takes_its_operation_back(scene: Scene) -> None:
    """A thread that gives up while it waits for its turn leaves nothing to be executed."""
    is_inside, go_on = threading.Event(), threading.Event()

    def hold(db: apsw.Connection) -> None:
        is_inside.set()
        assert go_on.wait(10)

    holder = threading.Thread(target=scene.writer.run, args=(hold,))
    holder.start()
    assert is_inside.wait(10)
    waiter = threading.get_ident()

    def interrupt() -> None:
        while not scene.writer._queue:
            assert holder.is_alive()
        signal.pthread_kill(waiter, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        scene.writer.run(put("given up"))
    interrupter.join(10)
    assert len(scene.writer._queue) == 0
    go_on.set()
    holder.join(10)
    assert scene.db.execute("SELECT count(*) FROM effects").get == 0


def test_interrupt_of_a_single_leader_lets_other_processes_go_on(scene: Scene) -> None:
    """The mutex between processes is free after an interrupt inside the transaction."""

    def operation(db: apsw.Connection) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scene.writer.run(operation)
    other = WriterMutex(str(scene.path), FakeClock())
    assert other.acquire(0)
    other.close()


class InterrupterOfTheMutexToo(Interrupter):
    files = WRITERS | {durably.store.sqlite.locks.mutex.__file__}


@pytest.mark.parametrize("own", [put("leader"), single_statement(put("leader"))])
def test_interrupt_anywhere_lets_other_processes_write(tmp_path: Path, own: Any) -> None:
    """The mutex is let go: who was interrupted may write nothing more for hours."""
    path = str(tmp_path / "t.db")
    db = connect(tmp_path / "t.db")
    db.execute("CREATE TABLE effects (name TEXT)")
    clock = FakeClock()
    mutex = WriterMutex(path, clock)
    writer = GroupCommitWriter(db, path=path, mutex=mutex, clock=clock)
    other = WriterMutex(path, clock)

    def play(interrupter: Interrupter) -> None:
        before = sys.gettrace()
        try:
            sys._getframe().f_trace_opcodes = True
            sys.settrace(interrupter)
            writer.run(own)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)

    complete = InterrupterOfTheMutexToo()
    play(complete)
    landed: list[str] = []
    held: list[str] = []
    for point in range(1, complete.passed + 1):
        interrupter = InterrupterOfTheMutexToo(point)
        play(interrupter)
        landed += interrupter.where
        if other.acquire(0):
            other.release()
        else:
            held += interrupter.where
            mutex.release()
    # The mutex is looked at for who waits only now and then: not all are there each time.
    assert len(landed) > 10
    assert held == []
    other.close()
    writer.close()
