"""What the logger ``durably`` says of a map: two lines if it goes well."""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from calls import HANG_S
from children import DEADLINE_S, PROGRAMS, execute

import durably
from durably.execution.loops import map_log

Lines = Callable[[], list[str]]
LABELS = PROGRAMS / "labels_badly.py"
TIMES = "\N{MULTIPLICATION SIGN}"
NEXT_MOVE = (
    "The results of the other items are kept. Fix the cause and start it again: it executes what "
    "failed."
)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "labels.db"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """Return what was logged of maps since the last call, with the levels; seconds are 0."""
    caplog.set_level(logging.INFO, "durably")

    def since() -> list[str]:
        of_maps = [record for record in caplog.records if hasattr(record, "step_name")]
        caplog.clear()
        said = [f"{record.levelname} {record.getMessage()}" for record in of_maps]
        return [re.sub(r", \d s$", ", 0 s", each) for each in said]

    return since


@pytest.fixture
def bad() -> Iterator[set[int]]:
    yield BAD
    BAD.clear()


BAD: set[int] = set()


def label(number: int) -> int:
    if number in BAD:
        raise ValueError(f"cannot parse {number}") if number % 2 else KeyError("gone")
    return number


@pytest.mark.parametrize("workers", [1, 3])
def test_a_map_that_goes_well_is_two_lines(db: Path, lines: Lines, workers: int) -> None:
    """How many items there are and how many were done before; how it has ended."""
    durably.map(label, range(1500), db=db, max_workers=workers)
    assert lines() == [
        "INFO label: 1,500 items, 0 done before",
        "INFO label: 1,500 of 1,500 done (0 before), 0 failed, 0 s",
    ]
    durably.map(label, range(1502), db=db, max_workers=workers)
    assert lines() == [
        "INFO label: 1,502 items, 1,500 done before",
        "INFO label: 1,502 of 1,502 done (1,500 before), 0 failed, 0 s",
    ]
    durably.map(label, range(1502), db=db, max_workers=workers)
    assert lines() == [
        "INFO label: 1,502 items, 1,502 done before",
        "INFO label: 1,502 of 1,502 done (1,502 before), 0 failed, 0 s",
    ]


def test_beside_those_of_its_run_there_are_no_others(
    db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each names the run by its id, and the map by its step, for who filters them."""
    caplog.set_level(logging.INFO, "durably")
    durably.map(label, [1], db=db)
    with durably.Durably(db) as app:
        (run,) = app.get_runs()
    assert len(caplog.records) == 4
    assert {vars(record)["run_id"] for record in caplog.records} == {run.id}
    names = [getattr(record, "step_name", None) for record in caplog.records]
    assert names == [None, "label", "label", None]
    assert {record.module for record in caplog.records} == {"map_log", "run_log"}


def test_failures_are_counted_by_kind(db: Path, lines: Lines, bad: set[int]) -> None:
    """A line for each kind, the most frequent first, and then what is tried again."""
    bad.update({1, 3, 5, 7, 8})
    with pytest.raises(durably.ItemsFailedError):
        durably.map(label, range(20), db=db, key=lambda n: f"doc-{n:03}")
    begin, end = lines()
    assert begin == "INFO label: 20 items, 0 done before"
    assert end == (
        f"INFO label: 15 of 20 done (0 before), 5 failed, 0 s\n  4 {TIMES} ValueError: cannot "
        f"parse 1  (doc-001, doc-003, doc-005, …)\n  1 {TIMES} KeyError: 'gone'  (doc-008)"
    )
    bad.clear()
    durably.map(label, range(20), db=db, key=lambda n: f"doc-{n:03}")
    assert lines() == [
        "INFO label: 20 items, 15 done before, 5 failed before and tried again",
        "INFO label: 20 of 20 done (15 before), 0 failed, 0 s",
    ]


def test_failures_that_are_returned_are_said_as_well(db: Path, lines: Lines, bad: set[int]) -> None:
    """No other line would report them."""
    bad.add(1)
    durably.map(label, [1, 2], db=db, on_failed="return")
    assert lines()[1] == (
        f"INFO label: 1 of 2 done (0 before), 1 failed, 0 s\n  1 {TIMES} ValueError: cannot parse 1"
        "  (0)"
    )


def test_a_map_that_ends_early_says_of_how_many(db: Path, lines: Lines, bad: set[int]) -> None:
    """The items that did not begin count among the total."""
    bad.add(2)
    with pytest.raises(durably.ItemsFailedError):
        durably.map(label, range(10), db=db, max_failures=0)
    assert lines()[1].startswith("INFO label: 2 of 10 done (0 before), 1 failed, 0 s\n")


def test_the_number_of_items_may_be_unknown(db: Path, lines: Lines) -> None:
    """Of a generator it is said at the end; before, only what is stored."""
    for count in (1, 3):
        durably.map(label, iter(range(count)), db=db)
    assert lines() == [
        "INFO label: 0 done before",
        "INFO label: 1 of 1 done (0 before), 0 failed, 0 s",
        "INFO label: 1 done before",
        "INFO label: 3 of 3 done (1 before), 0 failed, 0 s",
    ]


def test_items_that_are_not_asked_for_any_more_do_not_count(db: Path, lines: Lines) -> None:
    """Never more items were done before than there are."""
    durably.map(label, range(5), db=db, key=str)
    lines()
    durably.map(label, [1], db=db, key=str)
    assert lines()[0] == "INFO label: 1 item, 1 done before"


def test_maps_of_jobs_and_iterated_ones_say_the_same(db: Path, lines: Lines) -> None:
    """With the name of their step."""

    @durably.job
    def job(step: durably.StepContext) -> None:
        step.map("mapped", label, [1])
        assert len(list(step.imap("iterated", label, [1]))) == 1

    with durably.Durably(db) as app:
        app.run(job)
    assert [line.partition(":")[0] for line in lines()] == [
        "INFO mapped",
        "INFO mapped",
        "INFO iterated",
        "INFO iterated",
    ]


def test_nothing_is_counted_for_a_line_that_nobody_gets(
    db: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By default the level is WARNING."""
    caplog.set_level(logging.WARNING, "durably")
    durably.map(label, [1], db=db)
    monkeypatch.setattr("durably.execution.loops.loop.Loop._count_stored", None)
    monkeypatch.setattr(map_log, "_shown", None)
    assert durably.map(label, [1], db=db).reused == 1


def test_a_handler_that_raises_harms_no_map(db: Path) -> None:
    """The map completes, as a run does."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(record.getMessage())

    logger, handler = logging.getLogger("durably"), Broken()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        assert list(durably.map(label, [1], db=db)) == [1]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.mark.parametrize(("workers", "who"), [(1, "waiting"), (4, "all 4 workers wait")])
def test_a_rate_limit_is_said_once(db: Path, lines: Lines, workers: int, who: str) -> None:
    """Also if several items are asked to wait until about the same time."""
    tried: set[int] = set()
    barrier = threading.Barrier(workers)

    def limited(number: int) -> int:
        if number not in tried:
            tried.add(number)
            barrier.wait(HANG_S)
            raise durably.RetryAfter(0.2)
        return number

    durably.map(limited, range(workers), db=db, name="limited", max_workers=workers)
    assert lines()[1:-1] == [f"INFO limited: rate limited: {who} 0.2 s (Ctrl-C is safe)"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (21.4, "21 s"),
        (59.6, "1 min 0 s"),
        (3552, "59 min 12 s"),
        (3600, "1 h 0 min"),
        (90_061, "25 h 1 min"),
    ],
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    """A duration has the unit that suits its size."""
    assert map_log._shown(seconds) == text


def interrupted(folder: Path, workers: int) -> tuple[int, list[str]]:
    """Interrupt a program inside the items of a map; its exit status and what it has printed."""
    done = execute("interrupts_a_map", workers, folder=folder, timeout_s=DEADLINE_S)
    return done.returncode, done.stderr.splitlines()


def test_ctrl_c_says_what_it_waits_for_and_what_is_kept(tmp_path: Path) -> None:
    """A warning, which Python prints; then where it stopped, and no traceback."""
    status, printed = interrupted(tmp_path, 8)
    assert status == -signal.SIGINT
    waits, note = printed
    assert re.fullmatch(  # the first three are in it once their commit has ended
        r"Stopping: waiting for 8 calls in progress\. [0-3] of 50 (is|are) in labels\.db; "
        r"start the script again to go on\.",
        waits,
    )
    assert note == (
        "KeyboardInterrupt: stopped in step 'label'; 11 of its items are kept. "
        "Start it again to go on."
    )


def test_ctrl_c_in_the_calling_thread_shows_where(tmp_path: Path) -> None:
    """There is nothing to wait for, and the user's own frames are of use."""
    status, printed = interrupted(tmp_path, 1)
    assert status == -signal.SIGINT
    assert not any("Stopping" in line or "durably/" in line for line in printed)
    assert [line for line in printed if line.endswith("in label")]
    assert printed[-1] == (
        "stopped in step 'label'; 3 of its items are kept. Start it again to go on."
    )


def test_an_interrupt_of_a_run_has_the_same_note(db: Path) -> None:
    """Of ``app.run``, where a signal stops the job."""

    @durably.job
    def job(step: durably.StepContext) -> None:
        def stop(number: int) -> int:
            if number == 2:
                signal.raise_signal(signal.SIGINT)
            return number

        step.map("stop", stop, range(4))

    with closing(durably.Durably(db)) as app, pytest.raises(KeyboardInterrupt) as stopped:
        app.run(job)
    assert stopped.value.__notes__ == [
        "stopped in step 'stop'; 2 of its items are kept. Start it again to go on."
    ]


# -- what is printed of an error that nothing handles ----------------------------------------------


def printed_of(folder: Path, how: str) -> tuple[int, str]:
    """Execute ``labels_badly.py`` in a folder; return its exit status and what it has printed."""
    done = execute("labels_badly", how, folder=folder)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_failed_items_are_reported_in_a_few_lines(tmp_path: Path) -> None:
    """Their counts, the first of each kind with the user's frames, the next move; status 1."""
    status, text = printed_of(tmp_path, "map")
    assert status == 1
    assert text == (
        "ItemsFailedError: 6 of 20 items failed: 5 x BadRequestError: 400 cannot parse 3 "
        "(3, 7, 11, ...), 1 x TimeoutError (8)\n"
        f'  File "{LABELS}", line 15, in label\n'
        '    raise BadRequestError(f"400 cannot parse {number}")\n'
        "BadRequestError: 400 cannot parse 3\n"
        "item '3' of step 'label'\n"
        f'  File "{LABELS}", line 17, in label\n'
        "    raise TimeoutError\n"
        "TimeoutError\n"
        "item '8' of step 'label'\n"
        f"{NEXT_MOVE}\n"
    )


def test_of_a_session_they_are_reported_in_the_same_way(tmp_path: Path) -> None:
    """With the notes that the program has added."""
    status, text = printed_of(tmp_path, "session")
    assert status == 1
    assert text.startswith("ItemsFailedError: 1 of 4 items failed: 1 x BadRequestError")
    assert text.splitlines()[-2:] == [NEXT_MOVE, "ask Ada"]


def test_a_session_shows_no_frame_of_durably_after_ctrl_c(tmp_path: Path) -> None:
    """A script that opens no engine of its own has the hooks as well."""
    status, text = printed_of(tmp_path, "ctrl-c")
    assert status == -signal.SIGINT
    assert "durably/" not in text
    assert "stopped " in text


def test_ipython_shows_the_same_lines(bad: set[int], db: Path) -> None:
    """They follow the error's line."""
    bad.add(1)
    with pytest.raises(durably.ItemsFailedError) as failed:
        durably.map(label, [1], db=db)
    shown: list[Any] = failed.value._render_traceback_()
    assert shown[0].startswith("ItemsFailedError: 1 of 1 items failed")
    assert shown[-1].endswith("it executes what failed.")
    assert not any("durably/" in line for line in shown[1:])
