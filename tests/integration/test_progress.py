"""Progress: cheap to report, thinned out on its way, and never without its last state."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction

import pytest
from children import Child
from engines import GRACE_S, engine, execute, record

import durably
from durably import Progress
from durably.store.sqlite.store import SqliteStore


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1,), Progress(1, None, None)),
        ((1, 2), Progress(1, 2, None)),
        ((0.5, 1.5, "half"), Progress(0.5, 1.5, "half")),
        ((0, None, ""), Progress(0, None, "")),
        ((-3, 10**30, "é\x00\ud800"), Progress(-3, 10**30, "é\x00\ud800")),
        ((math.inf, math.inf), Progress(math.inf, math.inf)),
        ((Decimal("1.5"), Fraction(1, 4)), Progress(1.5, 0.25)),
    ],
)
def test_progress_is_stored_with_the_run(tmp_path, arguments, expected):
    """``step.progress(current, total, message)`` is found in ``Run.progress`` as it was."""

    def job(step):
        step.progress(*arguments)

    with engine(tmp_path, job) as app:
        run = execute(app)
    assert run.progress == expected, run.error
    assert (type(run.progress.current), type(run.progress.total)) == (
        type(expected.current),
        type(expected.total),
    )


def test_progress_takes_names(tmp_path):
    """The arguments may be named; a run without any progress has None."""

    def job(step, payload):
        if payload:
            step.progress(current=1, total=2, message="m")

    with engine(tmp_path, job) as app:
        assert execute(app, payload=True).progress == Progress(1, 2, "m")
        assert execute(app, payload=False).progress is None


@pytest.mark.parametrize(
    "arguments",
    [
        *[("1",), (None,), (True,), (1j,), (1, "2"), (1, False), (1, 2, 3), (1, 2, b"m"), ([],)],
        *[(Decimal("sNaN"),), (1, Fraction(10**400)), (int,), (1, float)],
    ],
)
def test_what_is_no_progress_is_rejected(tmp_path, arguments):
    """Current and total are numbers and the message is a str: else a ValidationError."""

    def job(step):
        with pytest.raises(durably.ValidationError, match="progress"):
            step.progress(*arguments)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert (run.status, run.progress) == ("completed", None), run.error


@pytest.mark.parametrize("outcome", ["completed", "failed", "interrupted"])
def test_the_last_progress_always_arrives(tmp_path, outcome):
    """However quick the calls, the last one is stored and emitted, before the end of the run."""

    def job(step):
        for number in range(10_000):
            step.progress(number, 10_000)
        if outcome == "failed":
            raise ValueError
        if outcome == "interrupted":
            inside.set()
            step.sleep(600)

    inside = threading.Event()
    with engine(tmp_path, job) as app:
        events = record(app)
        app.start()
        run = app.jobs["job"].trigger()
        if outcome == "interrupted":
            assert inside.wait(GRACE_S)
        else:
            list(app.as_completed([run], timeout=GRACE_S))
        app.stop(interrupt=True)
        assert app.get_run(run).progress == Progress(9999, 10_000)
    kinds = [event.type for event in events]
    last = {"completed": "run:complete", "failed": "run:fail", "interrupted": "run:interrupt"}
    assert kinds[-1] == last[outcome]
    told = [event.progress for event in events if event.type == "run:progress"]
    assert told[-1] == Progress(9999, 10_000)
    assert len(told) < 1000
    assert told == sorted(told, key=lambda progress: progress.current)


def test_progress_is_reported_while_the_job_runs(tmp_path):
    """A listener hears progress while the job is still executed, after it was committed."""
    heard = threading.Event()
    stored = []

    def job(step):
        step.progress(1, 2)
        assert heard.wait(GRACE_S)
        return "went on"

    with engine(tmp_path, job) as app, engine(tmp_path) as other:

        @app.on("run:progress")
        def hear(event):
            run = other.get_run(event.run_id)
            stored.append((str(run.status), run.progress, event.progress))
            heard.set()

        assert execute(app).output == "went on"
    assert stored == [("running", Progress(1, 2), Progress(1, 2))]


def test_progress_in_the_middle_arrives_if_nothing_follows(tmp_path):
    """The last of several calls arrives while the job goes on without another call."""
    arrived = threading.Event()

    def job(step):
        for number in range(100):
            step.progress(number)
        assert arrived.wait(GRACE_S)

    with engine(tmp_path, job) as app:
        app.on("run:progress", lambda e: e.progress.current == 99 and arrived.set())
        assert execute(app).status == "completed"


def test_progress_of_many_threads_is_one_of_theirs(tmp_path):
    """Calls from several threads never mix the arguments of two."""

    def job(step):
        with ThreadPoolExecutor(4) as pool:
            for number in range(2000):
                pool.submit(step.progress, number, number + 1, str(number))

    with engine(tmp_path, job) as app:
        events = record(app, "run:progress")
        run = execute(app)
    for each in [run.progress, *(event.progress for event in events)]:
        assert (each.total, each.message) == (each.current + 1, str(each.current))


def test_progress_outlives_a_retry(tmp_path):
    """A run that is retried shows what it had reached until it reports anew."""

    def job(step):
        if step.attempt == 1:
            step.progress(3, 4)
            raise ValueError

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert app.retry(run).progress == Progress(3, 4)


def test_progress_that_could_not_be_stored_is_stored_later(tmp_path, monkeypatch):
    """A rejected write of progress is emitted as worker:error and tried again; nothing is lost."""
    real, refused, arrived = SqliteStore.set_progress, [], threading.Event()

    def refuse_once(*args):
        if not refused:
            refused.append(1)
            raise durably.DatabaseError("not now", is_transient=True)
        return real(*args)

    def job(step):
        step.progress(1)
        assert arrived.wait(GRACE_S)

    monkeypatch.setattr(SqliteStore, "set_progress", refuse_once)
    with engine(tmp_path, job) as app:
        errors = record(app, "worker:error")
        app.on("run:progress", lambda _: arrived.set())
        assert execute(app).progress == Progress(1)
    assert len(errors) == 1


def test_on_progress_hears_another_engine(tmp_path):
    """A waiter in another engine gets a ``Progress`` in its own thread, the last one included."""
    heard = []

    def hear(progress):
        heard.append((progress, threading.current_thread()))

    def job(step):
        for number in range(50):
            step.progress(number, 50)

    with engine(tmp_path, job) as app, engine(tmp_path, job) as other:
        other.start()
        app.jobs["job"].trigger_and_wait(timeout=GRACE_S, on_progress=hear)
    assert heard[-1] == (Progress(49, 50), threading.current_thread())
    assert [p.current for p, _ in heard] == sorted({p.current for p, _ in heard})


def test_on_progress_hears_another_process(tmp_path, eventually):
    """Progress of a run in another process arrives while it is executed there, and the last one."""
    heard, said = [], []

    def say_the_next():
        said.append(len(said))
        child.say(str(said[-1]))
        return heard

    with engine(tmp_path) as app, Child("reports_progress", tmp_path / "durably.db") as child:
        run_id = child.line()
        events = record(app)
        waiting = threading.Thread(
            target=app.wait,
            args=(run_id,),
            kwargs={"timeout": GRACE_S, "on_progress": heard.append},
        )
        waiting.start()
        eventually(say_the_next)
        assert app.get_run(run_id).status == "running"
        child.say("-1")
        child._process.stdin.close()
        waiting.join(GRACE_S)
        assert child.wait() == 0
        assert app.get_run(run_id).progress == heard[-1] == Progress(-1, None, "from afar")
    assert {progress.current for progress in heard} <= {*said, -1}
    assert events == []
