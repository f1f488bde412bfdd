"""``step.log`` takes what a logger takes, and lines can be printed."""

from __future__ import annotations

import inspect
import logging
from datetime import UTC, datetime, timedelta

import pytest
from engines import engine, execute, record

import durably
from durably.plugins import LogPersistence


def lines_of(tmp_path, talk):
    """The events of what *talk* logs, and the lines as they are stored."""

    def job(step):
        talk(step.log)

    with engine(tmp_path, job) as app:
        app.use(LogPersistence())
        events = record(app, "log:write")
        run = execute(app)
        assert run.status == "completed", run.error
        return events, app.get_logs(run)


class Failing:
    def __str__(self):
        raise ValueError

    __repr__ = __bool__ = __str__


@pytest.mark.parametrize(
    ("message", "args", "text"),
    [
        ("got %s rows", (3,), "got 3 rows"),
        ("%d of %d", (1, 2), "1 of 2"),
        ("%(done)d of %(all)d", ({"done": 1, "all": 2},), "1 of 2"),
        ("%s", ({},), "{}"),
        ("%s", ((1, 2),), "(1, 2)"),
        ("%r", ("a",), "'a'"),
        ("100 %", (), "100 %"),
        ("100 %s", (), "100 %s"),
        ("got %d rows", ("x",), "got %d rows 'x'"),
        ("no place", (1, "a"), "no place 1 'a'"),
        ("100 %", (1,), "100 % 1"),
        ("%s", (Failing(),), "%s <unprintable Failing>"),
        (ValueError("x"), (), "x"),
        (Failing(), (), "<unprintable Failing>"),
    ],
)
def test_arguments_are_put_into_the_message(tmp_path, message, args, text, caplog):
    """``%`` formats work as in logging; what does not fit is appended, and nothing is raised."""
    with caplog.at_level(logging.INFO, "durably.job"):
        events, stored = lines_of(tmp_path, lambda log: log.info(message, *args, rows=1))

    assert [(each.message, each.data) for each in events] == [(text, {"rows": 1})]
    assert [(each.message, each.data) for each in stored] == [(text, {"rows": 1})]
    assert caplog.messages == [f"{text} rows=1"]


def fail():
    raise KeyError("missing")


def log_exception(log, **data):
    try:
        fail()
    except KeyError:
        log.exception("bad %s", 3, **data)


def test_exception_logs_the_traceback(tmp_path, caplog):
    """``exception`` is of level error; the traceback goes to the logger and is stored as data."""
    events, stored = lines_of(tmp_path, lambda log: log_exception(log, row=7))

    for line in (*events, *stored):
        assert (line.level, line.message, line.data["row"]) == ("error", "bad 3", 7)
        assert line.data["exc_info"].startswith("Traceback (most recent call last):\n")
        assert line.data["exc_info"].endswith("KeyError: 'missing'\n")
        assert "in fail" in line.data["exc_info"]
    (log_record,) = caplog.records
    assert (log_record.levelname, log_record.getMessage()) == ("ERROR", "bad 3 row=7")
    assert log_record.exc_info[0] is KeyError


@pytest.mark.parametrize(
    ("exc_info", "last"),
    [
        (ValueError("mine"), "ValueError: mine\n"),
        ((ValueError, ValueError("mine"), None), "ValueError: mine\n"),
        (True, None),
        (1, None),
        (False, None),
        (None, None),
        ("text", None),
        ((None, None, None), None),
        (Failing(), None),
    ],
)
def test_exc_info_may_be_an_exception(tmp_path, exc_info, last, caplog):
    """An exception or a triple is taken; without any, there is no traceback."""
    events, _ = lines_of(tmp_path, lambda log: log.warning("x", exc_info=exc_info))

    text = events[0].data.get("exc_info")
    assert text is None if last is None else text.endswith(last)
    (log_record,) = caplog.records
    assert (log_record.exc_info is None) == (last is None)


def test_warn_is_deprecated_and_works(tmp_path):
    """``warn`` warns of itself, as that of logging does, and logs."""
    with pytest.warns(DeprecationWarning, match=r"use step\.log\.warning") as warned:
        events, _ = lines_of(tmp_path, lambda log: log.warn("odd %s", 1, n=2))  # noqa: G010 - the case

    assert [(each.level, each.message, each.data) for each in events] == [
        ("warning", "odd 1", {"n": 2})
    ]
    assert [each.filename for each in warned] == [__file__]


def test_critical_is_an_error_that_is_critical_to_logging(tmp_path, caplog):
    """Stored lines have four levels."""
    events, stored = lines_of(tmp_path, lambda log: log.critical("down"))

    assert [each.level for each in (*events, *stored)] == ["error", "error"]
    assert [each.levelname for each in caplog.records] == ["CRITICAL"]


def test_extra_reaches_the_record_and_the_data(tmp_path, caplog):
    """What a record has already cannot be overwritten, and is data all the same."""
    extra = {"user": "ann", "message": "m", "run_id": "mine", "name": "n", 3: "x", "rows": 1}
    with caplog.at_level(logging.INFO, "durably.job"):
        events, _ = lines_of(tmp_path, lambda log: log.info("x", extra=extra, rows=2))

    data = {"user": "ann", "message": "m", "run_id": "mine", "name": "n", "rows": 2}
    assert events[0].data == data
    (log_record,) = caplog.records
    assert (log_record.user, log_record.rows) == ("ann", 1)
    assert log_record.run_id == events[0].run_id
    assert log_record.name == "durably.job.job"


def test_what_is_no_setting_of_a_logger_is_data(tmp_path, caplog):
    """An ``extra`` that is no dict and a ``stacklevel`` that is no int are data; nothing raises."""
    data = {"extra": [1], "stacklevel": "high", "level": 3, "args": 4, "name": "n", "msg": "m"}
    with caplog.at_level(logging.INFO, "durably.job"):
        events, _ = lines_of(tmp_path, lambda log: log.info("x", **data))

    assert events[0].data == data


def deeper(log, **data):
    log.info("x", **data)


def test_the_record_names_the_line_that_logged(tmp_path, caplog):
    """For every method; ``stacklevel`` names a caller further up, as in logging."""
    first = inspect.currentframe().f_lineno

    def talk(log):
        log.debug("x")
        log.info("x")
        log.warning("x")
        log.error("x")
        log.exception("x")  # noqa: LOG004 - as good as any other
        log.critical("x")
        deeper(log, stacklevel=2)
        deeper(log, stacklevel=0)

    with caplog.at_level(logging.DEBUG, "durably.job"):
        lines_of(tmp_path, talk)
    found = [(each.filename, each.funcName, each.lineno) for each in caplog.records]
    here = "test_step_log.py"
    assert found == [
        *((here, "talk", first + 3 + number) for number in range(7)),
        (here, "deeper", deeper.__code__.co_firstlineno + 1),
    ]


def test_stack_info_is_kept(tmp_path, caplog):
    """The stack of the line that logged goes to the logger and is stored as data."""
    with caplog.at_level(logging.INFO, "durably.job"):
        events, _ = lines_of(tmp_path, lambda log: deeper(log, stack_info=True))

    stack = events[0].data["stack_info"]
    assert stack.startswith("Stack (most recent call last):\n")
    assert "in deeper" in stack.splitlines()[-2]
    assert caplog.records[0].stack_info.startswith("Stack (most recent call last):\n")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "2026-11-28 12:00:00.123+00:00 INFO done"),
        (
            {"step_name": "read", "data": {"rows": 3, "by": "ann"}, "level": "warning"},
            "2026-11-28 12:00:00.123+00:00 WARNING [read] done rows=3 by='ann'",
        ),
        (
            {"message": "a\nb\x1b[31m\u202e\ud800", "data": {"k\r": "\x07"}},
            "2026-11-28 12:00:00.123+00:00 INFO a\\nb\\x1b[31m\\u202e\\ud800 k\\r='\\x07'",
        ),
        ({"message": "é 漢 🙂"}, "2026-11-28 12:00:00.123+00:00 INFO é 漢 🙂"),
        (
            {"data": {"x": Failing()}},
            "2026-11-28 12:00:00.123+00:00 INFO done x=<unprintable Failing>",
        ),
    ],
)
def test_a_line_is_one_line_of_text(fields, text):
    """``str()`` of a ``LogEntry`` is for people; what a terminal would act on is escaped."""
    when = datetime(2026, 11, 28, 12, tzinfo=UTC) + timedelta(microseconds=123_456)
    line = {"level": "info", "message": "done", "data": {}, "step_name": None} | fields

    assert str(durably.LogEntry(**line, created_at=when)) == text
