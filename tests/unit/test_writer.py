"""Group commit: threads share commits, and each gets its own result or its own error."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest
from storekit import FakeClock, connect

from durably.errors import ConflictError, DatabaseError, ForkedError
from durably.store.sqlite.connection.write_request import WriteRequest, merged_by, single_statement
from durably.store.sqlite.connection.writer import MOST_AT_ONCE, GroupCommitWriter
from durably.store.sqlite.locks.mutex import WriterMutex


class Bench:
    """A writer on a table of names, and what it did."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.db = connect(path)
        self.db.set_busy_timeout(1)
        self.db.execute("CREATE TABLE effects (name TEXT NOT NULL UNIQUE)")
        self.reached: list[str] = []
        self.writer = GroupCommitWriter(
            self.db,
            path=str(path),
            mutex=WriterMutex(str(path), self.clock),
            clock=self.clock,
            fault_point=self.reached.append,
        )
        self.commits = 0
        self.db.set_commit_hook(self._count)
        self.fails_commit = False

    def _count(self) -> bool:
        self.commits += 1
        return self.fails_commit

    def names(self) -> list[str]:
        reader = connect(self.path)
        rows = reader.execute("SELECT name FROM effects ORDER BY rowid").fetchall()
        reader.close()
        return [name for (name,) in rows]

    def together(
        self, operations: list[Callable[..., Any]], eventually: Any, args: Sequence[Any] = ()
    ) -> list[Any]:
        """What became of operations that were queued while another one was executed.

        Each has one of *args*, if there are any.
        """
        is_inside, go_on = threading.Event(), threading.Event()

        def hold(db: apsw.Connection) -> None:
            is_inside.set()
            assert go_on.wait(10)

        holder = threading.Thread(target=self.writer.run, args=(hold,))
        holder.start()
        assert is_inside.wait(10)
        outcomes: list[Any] = [None] * len(operations)

        def call(number: int) -> None:
            try:
                outcomes[number] = self.writer.run(operations[number], *args[number : number + 1])
            except BaseException as exc:
                outcomes[number] = exc

        threads = []
        for number in range(len(operations)):
            threads.append(threading.Thread(target=call, args=(number,)))
            threads[-1].start()
            eventually(lambda number=number: len(self.writer._queue) == number + 1)
        self.commits = 0
        self.reached.clear()
        go_on.set()
        for thread in [holder, *threads]:
            thread.join(10)
        self.commits -= 0
        return outcomes


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "test.db")
    yield made
    made.writer.close()


def put(name: str) -> Callable[[apsw.Connection], str]:
    def operation(db: apsw.Connection) -> str:
        db.execute("INSERT INTO effects VALUES (?)", (name,))
        return name

    return operation


def put_alone(name: str) -> Callable[[apsw.Connection], str]:
    return single_statement(put(name))


def put_and_raise(name: str, error: BaseException) -> Callable[[apsw.Connection], str]:
    def operation(db: apsw.Connection) -> str:
        db.execute("INSERT INTO effects VALUES (?)", (name,))
        raise error

    return operation


def statements(db: apsw.Connection, action: Callable[[], object]) -> list[str]:
    seen: list[str] = []
    db.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: seen.append(event["sql"].split()[0]))
    try:
        action()
    finally:
        db.trace_v2(0, None)
    return seen


def put_several(db: apsw.Connection, new: Sequence[tuple[str]]) -> list[str]:
    rows = ", ".join(["(?)"] * len(new))
    db.execute(f"INSERT INTO effects VALUES {rows}", tuple(name for (name,) in new))
    return [f"{name} of {len(new)}" for (name,) in new]


@merged_by(put_several)
def put_merged(db: apsw.Connection, name: str) -> str:
    db.execute("INSERT INTO effects VALUES (?)", (name,))
    return name


# -- alone -----------------------------------------------------------------------------------


def test_operation_alone_is_one_transaction(bench: Bench) -> None:
    """Its arguments and result pass through, and it is committed when the call returns."""

    def operation(db: apsw.Connection, first: str, *, second: str) -> int:
        for name in (first, second):
            db.execute("INSERT INTO effects VALUES (?)", (name,))
        return 42

    assert bench.writer.run(operation, "a", second="b") == 42
    assert bench.names() == ["a", "b"]
    assert bench.commits == 1
    assert bench.reached == ["write", "before commit", "committed"]


def test_single_statement_alone_takes_no_transaction_of_its_own(bench: Bench) -> None:
    """One statement and nothing else is executed, in one commit."""
    seen = statements(bench.db, lambda: bench.writer.run(put_alone("a")))
    assert seen == ["INSERT"]
    assert (bench.names(), bench.commits) == (["a"], 1)
    assert bench.reached == ["write", "committed"]


def test_other_operation_alone_takes_no_savepoint(bench: Bench) -> None:
    """A transaction is enough for one."""
    seen = statements(bench.db, lambda: bench.writer.run(put("a")))
    assert seen == ["BEGIN", "INSERT", "COMMIT"]


@pytest.mark.parametrize("make", [put, put_alone])
def test_rejected_statement_is_a_database_error_with_its_cause(
    bench: Bench, make: Callable[[str], Any]
) -> None:
    """The caller learns why, nothing is stored, and the writer goes on."""
    bench.writer.run(make("a"))
    with pytest.raises(DatabaseError, match=r"test\.db") as caught:
        bench.writer.run(make("a"))
    assert isinstance(caught.value.__cause__, apsw.ConstraintError)
    bench.writer.run(make("b"))
    assert bench.names() == ["a", "b"]


def test_error_of_the_operation_rolls_it_back_and_is_raised_itself(bench: Bench) -> None:
    """A rejection by our own code comes out unchanged, and nothing is stored."""
    error = ConflictError("no")
    with pytest.raises(ConflictError) as caught:
        bench.writer.run(put_and_raise("a", error))
    assert caught.value is error
    assert (bench.names(), bench.db.in_transaction) == ([], False)


@pytest.mark.parametrize(
    "make", [put_and_raise, lambda *args: single_statement(put_and_raise(*args))]
)
def test_value_that_cannot_be_bound_stops_nobody(bench: Bench, make: Any) -> None:
    """An error that is neither SQLite's nor ours leaves the writer usable."""
    with pytest.raises(UnicodeEncodeError):
        bench.writer.run(put("\ud800"))
    with pytest.raises(UnicodeEncodeError):
        bench.writer.run(put_alone("\ud800"))
    bench.writer.run(put("a"))
    assert bench.names() == ["a"]


# -- together --------------------------------------------------------------------------------


def test_threads_that_wait_share_one_commit(bench: Bench, eventually: Any) -> None:
    """Sixteen operations queued behind one are committed at once, in their order."""
    names = [f"n{number:02}" for number in range(16)]
    outcomes = bench.together(
        [put(name) if number % 2 else put_alone(name) for number, name in enumerate(names)],
        eventually,
    )
    assert outcomes == names
    assert bench.names() == names
    # The one that they waited for, and theirs.
    assert bench.commits <= 2
    assert bench.reached.count("committed") == 2


def test_who_is_done_needs_no_lock_to_leave(bench: Bench, eventually: Any) -> None:
    """A thread goes on as soon as its operation is committed, whichever thread commits next.

    Otherwise all that a batch has served queue up for the lock, and the next batches are small.
    """
    lock = bench.writer._lock

    class Overtaken:
        """Once the batch is committed, taken by another before any of it can try."""

        def locked(self) -> bool:
            return lock.locked()

        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *exc: object) -> None:
            if "b" not in bench.names():
                lock.release()

    bench.writer._lock = Overtaken()  # type: ignore[assignment]
    assert bench.together([put("a"), single_statement(put("b"))], eventually) == ["a", "b"]
    lock.release()


def test_error_goes_to_its_caller_alone(bench: Bench, eventually: Any) -> None:
    """One operation's failure undoes that operation, and no other of the transaction."""
    error = ConflictError("no")
    outcomes = bench.together(
        [
            put("a"),
            put_and_raise("b", error),
            put("a"),
            put_alone("a"),
            put_alone("c"),
            put_and_raise("d", ValueError("odd")),
            put("\ud800"),
            put("e"),
        ],
        eventually,
    )
    assert [type(each) for each in outcomes] == [
        str,
        ConflictError,
        DatabaseError,
        DatabaseError,
        str,
        ValueError,
        UnicodeEncodeError,
        str,
    ]
    assert outcomes[1] is error
    assert isinstance(outcomes[2].__cause__, apsw.ConstraintError)
    assert bench.names() == ["a", "c", "e"]
    assert bench.reached.count("committed") == 2


def test_commit_that_fails_fails_every_operation_in_it(bench: Bench, eventually: Any) -> None:
    """Each caller gets an error object of its own, and nothing is stored."""

    def doom(db: apsw.Connection) -> None:
        bench.fails_commit = True

    outcomes = bench.together([put("a"), doom, put_alone("b")], eventually)
    assert [type(each) for each in outcomes] == [DatabaseError] * 3
    assert len({id(each) for each in outcomes}) == 3
    assert (bench.names(), bench.db.in_transaction) == ([], False)
    bench.fails_commit = False
    assert bench.writer.run(put("c")) == "c"
    assert bench.names() == ["c"]


def test_error_that_ends_the_transaction_fails_every_operation_in_it(
    bench: Bench, eventually: Any
) -> None:
    """Going on after SQLite rolled all back would commit the second half alone."""

    def lose_all(db: apsw.Connection) -> None:
        db.execute("INSERT INTO effects VALUES ('x')")
        db.execute("INSERT OR ROLLBACK INTO effects VALUES ('x')")

    outcomes = bench.together([put("a"), lose_all, put("b")], eventually)
    assert [type(each) for each in outcomes] == [DatabaseError] * 3
    assert bench.names() == []
    assert bench.writer.run(put("c")) == "c"


@pytest.mark.parametrize("make", [put, put_alone])
def test_failed_transaction_that_cannot_be_rolled_back_is_never_committed(
    bench: Bench, make: Callable[[str], Any]
) -> None:
    """Its caller gets the error that it failed with; the next one rolls it back first, and gets an
    error as long as that is impossible.
    """

    def fail(db: apsw.Connection) -> None:
        put("lost")(db)
        raise apsw.NoMemError("out of memory")

    def refuse_rollback(action: int, name: str | None, *_: Any) -> int:
        is_rollback = action == apsw.SQLITE_TRANSACTION and name == "ROLLBACK"
        return apsw.SQLITE_DENY if is_rollback else apsw.SQLITE_OK

    bench.db.authorizer = refuse_rollback
    with pytest.raises(DatabaseError, match="out of memory"):
        bench.writer.run(fail)
    assert bench.db.in_transaction
    with pytest.raises(DatabaseError):
        bench.writer.run(make("a"))
    bench.db.authorizer = None
    assert bench.writer.run(make("b")) == "b"
    assert bench.names() == ["b"]


def test_rollback_needs_no_memory(bench: Bench) -> None:
    """It is compiled before: an operation that ran out of memory is rolled back without any."""
    statements = bench.db.cache_stats(include_entries=True)["entries"]
    assert "ROLLBACK" in [each["query"] for each in statements]


# -- locks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [put, put_alone])
def test_foreign_lock_is_waited_for_up_to_the_deadline(
    bench: Bench, make: Callable[[str], Any]
) -> None:
    """A database that stays locked for 30 s is a transient error, and nothing is stored."""
    other = connect(bench.path)
    other.execute("BEGIN IMMEDIATE")
    ask = bench.clock.monotonic
    started = ask()

    def passing() -> float:
        bench.clock.seconds += 1.0
        return bench.clock.seconds

    bench.clock.monotonic = passing  # type: ignore[method-assign]
    with pytest.raises(DatabaseError, match="locked") as caught:
        bench.writer.run(make("a"))
    assert caught.value.is_transient
    assert 30 <= bench.clock.seconds - started < 40
    other.execute("ROLLBACK")
    other.close()
    assert bench.names() == []
    assert bench.writer.run(make("b")) == "b"


@pytest.mark.parametrize("make", [put, put_alone])
def test_operation_goes_on_when_a_foreign_lock_is_gone(
    bench: Bench, make: Callable[[str], Any]
) -> None:
    """It is executed once, although it was rejected before."""
    other = connect(bench.path)
    other.execute("BEGIN IMMEDIATE")
    asked: list[int] = []

    def release_later() -> float:
        asked.append(1)
        if len(asked) == 5:
            other.execute("ROLLBACK")
        return 0.0

    bench.clock.monotonic = release_later  # type: ignore[method-assign]
    assert bench.writer.run(make("a")) == "a"
    assert len(asked) >= 5
    other.close()
    assert bench.names() == ["a"]


def test_mutex_is_free_between_transactions(bench: Bench) -> None:
    """Other processes get their turn after each, also after one that failed."""
    other = WriterMutex(str(bench.path), bench.clock)
    for operation in (put("a"), put("a"), put_and_raise("b", ValueError())):
        with contextlib.suppress(DatabaseError, ValueError):
            bench.writer.run(operation)
        assert other.acquire(0)
        other.release()
    other.close()


def test_write_goes_on_without_a_mutex_that_is_stuck(bench: Bench) -> None:
    """The process that holds it may be stopped for ever: then SQLite's own locks must do."""
    other = WriterMutex(str(bench.path), bench.clock)
    assert other.acquire(0)
    assert bench.writer.run(put("a")) == "a"
    assert bench.names() == ["a"]
    other.close()


# -- the rest --------------------------------------------------------------------------------


def test_maintenance_is_outside_of_transactions(bench: Bench) -> None:
    """It may do what SQLite rejects inside one; its errors are translated."""

    def checkpoint(db: apsw.Connection) -> bool:
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return db.in_transaction

    assert bench.writer.maintain(checkpoint) is False
    with pytest.raises(DatabaseError):
        bench.writer.maintain(lambda db: db.execute("no SQL"))
    assert bench.writer.run(put("a")) == "a"


def test_fork_waits_for_the_transaction_in_progress(bench: Bench, eventually: Any) -> None:
    """Between the two hooks no operation is executed; afterwards it is."""
    bench.writer.before_fork()
    thread = threading.Thread(target=bench.writer.run, args=(put("a"),))
    thread.start()
    eventually(lambda: len(bench.writer._queue) == 1)
    assert bench.names() == []
    bench.writer.after_fork_in_parent()
    thread.join(10)
    assert bench.names() == ["a"]


def test_writer_of_another_process_rejects(bench: Bench) -> None:
    """In a forked child it raises, and nothing of its call is queued."""
    bench.writer._pid += 1
    with pytest.raises(ForkedError, match="parent"):
        bench.writer.run(put("a"))
    with pytest.raises(ForkedError, match="parent"):
        bench.writer.maintain(put("a"))
    bench.writer._pid -= 1
    assert (len(bench.writer._queue), bench.names()) == (0, [])


# -- merged ----------------------------------------------------------------------------------


def test_operations_that_say_how_are_one_statement(bench: Bench, eventually: Any) -> None:
    """Threads that wait with the same kind of operation share one statement and its commit."""
    names = [f"n{number}" for number in range(5)]
    seen = statements(
        bench.db,
        lambda: names.extend(bench.together([put_merged] * 5, eventually, names)),
    )
    assert names[5:] == [f"{name} of 5" for name in names[:5]]
    assert seen == ["BEGIN", "COMMIT", "INSERT"]  # the first two are what held them up
    assert (bench.commits, bench.names()) == (1 + 1, names[:5])
    assert bench.reached[-2:] == ["write", "committed"]


def test_others_in_the_batch_share_its_transaction(bench: Bench, eventually: Any) -> None:
    """What can be merged is, beside what cannot, and all is committed at once."""
    outcomes = bench.together(
        [put_merged, lambda db, name: put(name)(db), put_merged],
        eventually,
        ["a", "b", "c"],
    )
    assert outcomes == ["a of 2", "b", "c of 2"]
    assert (bench.commits, bench.names()) == (1 + 1, ["a", "c", "b"])


@pytest.mark.parametrize("others", [[], ["other"]])
def test_rejected_one_of_the_merged_harms_no_other(
    bench: Bench, eventually: Any, others: list[str]
) -> None:
    """What the schema rejects is an error of its own caller; they are executed one by one."""
    bench.writer.run(put("taken"))
    operations: list[Any] = [put_merged] * 3 + [put_alone(name) for name in others]
    args = ["a", "taken", "b"]
    outcomes = bench.together(operations, eventually, args)
    assert isinstance(outcomes[1], DatabaseError)
    assert [outcomes[0], *outcomes[2:]] == ["a", "b", *others]
    assert bench.names() == ["taken", "a", "b", *others]


def test_failing_commit_of_the_merged_fails_them_all(bench: Bench, eventually: Any) -> None:
    """Nothing of it is stored, and each caller has an error object of its own."""
    fails = itertools.chain([False], itertools.repeat(True))  # not for what holds them up
    bench.db.set_commit_hook(lambda: next(fails))
    outcomes = bench.together([put_merged] * 3, eventually, ["a", "b", "c"])
    assert [type(each) for each in outcomes] == [DatabaseError] * 3
    assert len({id(each) for each in outcomes}) == 3
    bench.db.set_commit_hook(None)
    assert bench.names() == []


def test_main_thread_merges_inside_a_transaction(bench: Bench) -> None:
    """A Ctrl-C after a statement that has committed by itself would find nobody settled."""
    waiting = [WriteRequest(put_merged, (name,), {}) for name in ("a", "b")]
    bench.writer._queue.extend(waiting)
    seen = statements(bench.db, lambda: bench.writer.run(put_merged, "c"))
    assert seen == ["BEGIN", "INSERT", "COMMIT"]
    assert [request.result for request in waiting] == ["a of 3", "b of 3"]


def test_error_of_a_value_is_raised_to_its_own_caller(bench: Bench) -> None:
    """The thread that has led for others does not get it."""
    waiting = WriteRequest(put_alone("\ud800"), (), {})

    def operation(db: apsw.Connection) -> str:
        bench.writer._queue.append(waiting)
        return put("own")(db)

    outcomes: list[Any] = []
    thread = threading.Thread(target=lambda: outcomes.append(bench.writer.run(operation)))
    thread.start()
    thread.join(10)
    assert outcomes == ["own"]
    assert isinstance(waiting.error, UnicodeEncodeError)
    assert waiting.is_done


def test_value_that_cannot_be_bound_harms_no_other_of_the_merged(
    bench: Bench, eventually: Any
) -> None:
    """They are executed one by one, and it is an error of its own."""
    outcomes = bench.together([put_merged] * 3, eventually, ["a", "\ud800", "b"])
    assert isinstance(outcomes[1], UnicodeEncodeError)
    assert [outcomes[0], outcomes[2]] == ["a", "b"]
    assert bench.names() == ["a", "b"]


def test_batch_is_bounded(bench: Bench) -> None:
    """A batch has so many operations at the most; the others come next, in their order."""
    waiting = [WriteRequest(put_merged, (f"n{n:03}",), {}) for n in range(MOST_AT_ONCE + 5)]
    bench.writer._queue.extend(waiting)
    assert bench.writer.run(put_merged, "own") == f"own of {MOST_AT_ONCE}"
    sizes = [int(request.result.split()[-1]) for request in waiting]
    assert sizes == [MOST_AT_ONCE] * (MOST_AT_ONCE - 1) + [6] * 6


def test_who_has_committed_does_so_for_others_once(bench: Bench) -> None:
    """What was queued meanwhile is executed at once; what comes after that, by its own thread."""
    second, third = (WriteRequest(put_alone(name), (), {}) for name in ("second", "third"))
    queue = bench.writer._queue

    def first(db: apsw.Connection) -> str:
        queue.append(second)
        return put("first")(db)

    second.operation = lambda db: (queue.append(third), put("second")(db))
    assert bench.writer.run(first) == "first"
    assert (second.is_done, third.is_done) == (True, False)
    assert list(queue) == [third]
    assert not third.latch.locked()
