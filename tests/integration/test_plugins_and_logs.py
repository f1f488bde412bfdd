"""Plugins, persisted log lines, and the library's loggers."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta

import pytest
from children import Child
from engines import GRACE_S, again, engine, execute, record

import durably
from durably.plugins import LogPersistence


def job(step, payload=None):
    step.log.debug("begin")
    step.run("read", lambda: step.log.info("reading", path="a.csv", rows=[1, {"b": None}]))
    step.log.warning("odd")
    step.log.error("end")
    if payload == "fail":
        raise ValueError
    if payload == "cancel":
        step.run("cancel", lambda: None)


LINES = [
    ("debug", "begin", {}, None),
    ("info", "reading", {"path": "a.csv", "rows": [1, {"b": None}]}, "read"),
    ("warning", "odd", {}, None),
    ("error", "end", {}, None),
]


def told(entries):
    return [(each.level, each.message, each.data, each.step_name) for each in entries]


# -- app.use -----------------------------------------------------------------------------------


class Plugin:
    def __init__(self, name="mine"):
        self.name = name
        self.installed = []

    def install(self, app):
        self.installed.append(app)


def test_a_plugin_is_installed_once(tmp_path):
    """``app.use`` calls ``install(app)``; a second plugin of that name is a ConflictError."""
    plugin, twin, other = Plugin(), Plugin(), Plugin("other")
    with engine(tmp_path) as app:
        assert app.use(plugin) is None
        for again_ in (plugin, twin):
            with pytest.raises(durably.ConflictError, match="'mine'"):
                app.use(again_)
        app.use(other)
    assert (plugin.installed, twin.installed, other.installed) == ([app], [], [app])


class Nameless:
    def install(self, app):
        raise AssertionError


class Inert:
    name = "inert"


@pytest.mark.parametrize(
    "value", [None, "log", Nameless(), Inert(), Plugin(3), Plugin, LogPersistence]
)
def test_what_is_no_plugin_is_rejected(tmp_path, value):
    """A plugin has a name, which is a str, and ``install(app)``."""
    with engine(tmp_path) as app, pytest.raises(durably.ValidationError):
        app.use(value)


def test_a_plugin_that_cannot_be_installed_may_be_tried_again(tmp_path):
    """An exception of ``install`` comes out, and the name stays free."""
    plugin = Plugin()

    class Broken(Plugin):
        def install(self, app):
            raise OSError

    with engine(tmp_path) as app:
        with pytest.raises(OSError):
            app.use(Broken())
        app.use(plugin)
    assert plugin.installed == [app]


def test_a_plugin_may_use_the_engine(tmp_path):
    """``install`` is called with an engine that can be used, also from inside."""
    heard = []

    class Nested(Plugin):
        def install(self, app):
            app.use(Plugin("inner"))
            app.on("run:complete", heard.append)

    with engine(tmp_path, job) as app:
        app.use(Nested("outer"))
        run = execute(app)
    assert [event.run_id for event in heard] == [run.id]


# -- persisted lines ---------------------------------------------------------------------------


@pytest.mark.parametrize("payload", ["complete", "fail", "cancel"])
def test_persisted_lines_are_there_when_the_run_has_ended(tmp_path, payload):
    """``get_logs`` gives all lines in order, also in another engine, however the run ended."""
    with engine(tmp_path, job) as app, engine(tmp_path) as other:
        app.use(LogPersistence())
        events = record(app, "log:write")
        app.on("step:start", lambda e: e.step_name == "cancel" and app.cancel(e.run_id))
        before = datetime.now(UTC)
        run = execute(app, payload)
        assert told(other.get_logs(run)) == LINES
        entries = app.get_logs(run.id)
    assert run.status == {"complete": "completed", "fail": "failed", "cancel": "cancelled"}[payload]
    assert told(entries) == told(events) == LINES
    assert [each.created_at for each in entries] == [each.timestamp for each in events]
    assert all(each.created_at > before - timedelta(milliseconds=1) for each in entries)


@pytest.mark.parametrize("is_used_too", [False, True])
def test_the_option_persists_each_line_once(tmp_path, is_used_too):
    """``persist_logs=True`` does what ``LogPersistence`` does, and once where both are used."""
    with engine(tmp_path, job, persist_logs=True) as app, engine(tmp_path) as other:
        if is_used_too:
            app.use(LogPersistence())
        run = execute(app)
        assert told(other.get_logs(run)) == LINES


def test_without_the_plugin_nothing_is_persisted(tmp_path):
    """``get_logs`` is empty unless logs are persisted; of an unknown run it is a NotFoundError."""
    with engine(tmp_path, job) as app:
        run = execute(app)
        assert app.get_logs(run) == []
        with pytest.raises(durably.NotFoundError):
            app.get_logs("nobody")


def test_lines_are_persisted_while_the_run_goes_on(tmp_path, eventually):
    """Another engine sees a line while the job that wrote it is still executed."""
    may_end = threading.Event()

    def talk(step):
        step.log.info("early")
        assert may_end.wait(GRACE_S)

    with engine(tmp_path, talk) as app, engine(tmp_path) as other:
        app.use(LogPersistence())
        app.start()
        run = app.jobs["talk"].trigger()
        eventually(lambda: other.get_logs(run))
        assert app.get_run(run).status == "running"
        may_end.set()
        app.stop()
        assert [entry.message for entry in other.get_logs(run)] == ["early"]


def test_lines_of_all_attempts_are_kept_and_go_with_their_run(tmp_path):
    """A retried run has the lines of both attempts; a deleted one leaves none behind."""

    def talk(step):
        step.log.info("attempt", number=step.attempt)
        if step.attempt == 1:
            raise ValueError

    with engine(tmp_path, talk) as app:
        app.use(LogPersistence())
        run = execute(app, job="talk")
        again(app, run)
        assert [entry.data["number"] for entry in app.get_logs(run)] == [1, 2]
        app.delete_run(run)
        count = "SELECT count(*) FROM durably_logs"
        assert app._store.database.read(lambda db: db.execute(count).get) == 0


def test_a_line_after_the_end_of_the_run_is_persisted(tmp_path):
    """``step.log`` still logs after the run has ended, and ``get_logs`` sees it at once."""
    kept = []

    def talk(step):
        kept.append(step)

    with engine(tmp_path, talk) as app:
        app.use(LogPersistence())
        run = execute(app, job="talk")
        kept[0].log.info("late")
        assert [entry.message for entry in app.get_logs(run)] == ["late"]
        kept[0].log.info("later")
        app.close()
    with engine(tmp_path) as app:
        assert [entry.message for entry in app.get_logs(run)] == ["late", "later"]


class Unprintable:
    def __repr__(self):
        raise ValueError

    __str__ = __repr__


CIRCULAR: list[object] = []
CIRCULAR.append(CIRCULAR)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        b"\x00",
        {(1, 2): 3},
        float("nan"),
        "\ud800\x00",
        10**5000,
        Unprintable(),
        CIRCULAR,
        datetime.now(UTC),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_log_line_never_raises_for_what_it_is_given(tmp_path, value, caplog):
    """Data and messages of any kind are emitted, logged and persisted in some form."""

    def talk(step):
        step.log.info("data", value=value, good=[1])
        step.log.info(value)

    with engine(tmp_path, talk) as app, caplog.at_level(logging.DEBUG):
        app.use(LogPersistence())
        errors = []
        app.on_error(lambda exc, event: errors.append(exc))
        events = record(app, "log:write")
        run = execute(app, job="talk")
        assert run.status == "completed", run.error
        first, second = app.get_logs(run)
    assert errors == []
    assert events[0].data["value"] is value
    assert (first.message, list(first.data)) == ("data", ["value", "good"])
    assert first.data["good"] == [1]
    assert isinstance(second.message, str)
    assert all(isinstance(event.message, str) for event in events)


def test_names_of_data_may_be_anything(tmp_path):
    """``message``, ``level`` and ``self`` are fine as names of data."""

    def talk(step):
        step.log.info("text", message="m", level="l", self="s", run_id="r")

    with engine(tmp_path, talk) as app:
        events = record(app, "log:write")
        execute(app, job="talk")
    assert [(event.message, event.level) for event in events] == [("text", "info")]
    assert events[0].data == {"message": "m", "level": "l", "self": "s", "run_id": "r"}


# -- on_log ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_persisted", [False, True])
def test_on_log_gets_each_line_of_this_process_once(tmp_path, is_persisted):
    """``on_log`` gets a ``LogEntry`` per line in the waiting thread, persisted or not."""
    heard = []

    def hear(entry):
        heard.append((entry, threading.current_thread()))

    with engine(tmp_path, job) as app:
        if is_persisted:
            app.use(LogPersistence())
        app.start()
        app.jobs["job"].trigger_and_wait(timeout=GRACE_S, on_log=hear)
    assert told(entry for entry, _ in heard) == LINES
    assert {type(entry) for entry, _ in heard} == {durably.LogEntry}
    assert {thread for _, thread in heard} == {threading.current_thread()}


@pytest.mark.parametrize("is_persisted", [False, True])
def test_on_log_gets_lines_of_another_engine_if_they_are_persisted(tmp_path, is_persisted):
    """Lines of a run executed elsewhere come through the database, if they are stored there."""
    heard = []
    with engine(tmp_path, job) as app, engine(tmp_path, job) as other:
        if is_persisted:
            other.use(LogPersistence())
        other.start()
        app.jobs["job"].trigger_and_wait(timeout=GRACE_S, on_log=heard.append)
    assert told(heard) == (LINES if is_persisted else [])


def test_on_log_gets_lines_of_another_process_from_the_wait_on(tmp_path, eventually):
    """A waiter hears what another process logs from the start of the wait on, not before."""
    heard, progress = [], []
    with engine(tmp_path) as app, Child("logs_lines", tmp_path / "durably.db") as child:
        run_id = child.line()
        eventually(lambda: app.get_logs(run_id))
        waiting = threading.Thread(
            target=app.wait,
            args=(run_id,),
            kwargs={"timeout": GRACE_S, "on_log": heard.append, "on_progress": progress.append},
        )
        waiting.start()
        # Progress that arrives shows that the wait has begun: only then comes the next line.
        eventually(lambda: child.say() or progress)
        child.say("end")
        waiting.join(GRACE_S)
        assert child.wait() == 0
        assert [entry.message for entry in app.get_logs(run_id)] == ["before", "from afar"]
    assert told(heard) == [("warning", "from afar", {"pid": 1}, "s")]


# -- logging -----------------------------------------------------------------------------------


def test_lines_go_to_the_logger_of_the_job(tmp_path, caplog):
    """``step.log`` logs through ``durably.job.<name>``, with level, data, run and source line."""
    with engine(tmp_path, job) as app, caplog.at_level(logging.DEBUG, "durably.job.job"):
        run = execute(app)
    lines = [line for line in caplog.records if line.name == "durably.job.job"]
    assert [(line.levelname.lower(), line.getMessage()) for line in lines] == [
        ("debug", "begin"),
        ("info", "reading path='a.csv' rows=[1, {'b': None}]"),
        ("warning", "odd"),
        ("error", "end"),
    ]
    assert {line.run_id for line in lines} == {run.id}
    assert {line.pathname for line in lines} == {__file__}
    first = job.__code__.co_firstlineno
    assert [line.lineno - first for line in lines] == [1, 2, 3, 4]


def test_a_percent_sign_is_no_format(tmp_path, caplog):
    """A message is shown as it is, whatever ``%`` it holds."""

    def talk(step):
        step.log.warning("100 % of %s %d", rate="%s")

    with engine(tmp_path, talk) as app:
        execute(app, job="talk")
    assert caplog.messages == ["100 % of %s %d rate='%s'"]


def test_a_disabled_level_costs_no_formatting(tmp_path):
    """Data is turned into text only if the line is written out; the event comes all the same."""
    shown = []

    class Shown:
        def __repr__(self):
            shown.append(1)
            return "shown"

    def talk(step):
        step.log.debug("quiet", value=Shown())

    with engine(tmp_path, talk) as app:
        events = record(app, "log:write")
        execute(app, job="talk")
    assert shown == []
    assert len(events) == 1
