"""Steps used from threads that a job starts."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from engines import GRACE_S, again, engine, execute, record

import durably


def test_threads_of_a_job_may_use_its_steps(tmp_path):
    """Steps used by several threads at once each store a checkpoint, replayed on a resume."""
    names = [f"step-{number}" for number in range(40)]
    calls = []
    barrier = threading.Barrier(8)

    def work(name):
        calls.append(name)
        if len(calls) <= 8:
            barrier.wait(GRACE_S)  # eight steps are inside at once
        return name.upper()

    def job(step):
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda name: step.run(name, work, name), names))
        if step.attempt == 1:
            raise ValueError
        return results

    with engine(tmp_path, job) as app:
        run = execute(app)
        stored = app.get_steps(run)
        assert sorted(each.name for each in stored) == sorted(names)
        assert [each.index for each in stored] == list(range(40))
        run = again(app, run)
        assert run.output == [name.upper() for name in names]
        assert app.get_steps(run) == stored
    assert sorted(calls) == sorted(names)


def test_two_threads_with_one_name_share_one_result(tmp_path):
    """The second thread waits, gets the first's result, and the warning."""
    is_inside, may_end = threading.Event(), threading.Event()
    calls = []

    def work(who):
        calls.append(who)
        is_inside.set()
        assert may_end.wait(GRACE_S)
        return who

    def job(step):
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(step.run, "s", work, "first")
            assert is_inside.wait(GRACE_S)
            second = pool.submit(step.run, "s", work, "second")
            while not step._step_runner._turns or not second.running():
                assert not second.done()
            may_end.set()
            return [first.result(GRACE_S), second.result(GRACE_S)]

    with engine(tmp_path, job, on_duplicate_step="reuse") as app:
        skipped = record(app, "step:skip")
        with pytest.warns(durably.DuplicateStepWarning, match="'s'") as caught:
            assert execute(app).output == ["first", "first"]
    assert len(caught) == 1
    assert calls == ["first"]
    assert [each.step_index for each in skipped] == [0]


def test_many_threads_with_one_name_execute_it_once(tmp_path):
    """However many threads meet at one name, its function is called once."""
    barrier = threading.Barrier(8)
    calls = []

    def use(step, name):
        barrier.wait(GRACE_S)
        return step.run(name, lambda: calls.append(name) or len(calls))

    def job(step):
        results = []
        with ThreadPoolExecutor(8) as pool:
            for number in range(20):
                found = {*pool.map(lambda _, n=number: use(step, f"s{n}"), range(8))}
                results.append(sorted(found))
        return results

    with (
        engine(tmp_path, job, on_duplicate_step="reuse") as app,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        run = execute(app)
    assert run.output == [[number + 1] for number in range(20)], run.error
    assert calls == [f"s{number}" for number in range(20)]
    assert len(caught) == 20 * 7


def test_of_many_threads_with_one_name_all_but_one_raise(tmp_path):
    """Where threads meet at a name, one gets its result, on a resume too; the others raise."""
    barrier = threading.Barrier(8)
    calls = []

    def use(step, name):
        barrier.wait(GRACE_S)
        try:
            return step.run(name, lambda: calls.append(name) or 1)
        except durably.DuplicateStepError:
            return 0

    def job(step):
        with ThreadPoolExecutor(8) as pool:
            used = [
                sum(pool.map(lambda _, n=number: use(step, f"s{n}"), range(8)))
                for number in range(20)
            ]
        if step.attempt < 3:
            raise ValueError
        return used

    with engine(tmp_path, job) as app:
        run = again(app, again(app, execute(app)))
    assert run.output == [1] * 20, run.error
    assert calls == [f"s{number}" for number in range(20)]


def test_a_waiting_thread_executes_the_step_when_the_first_has_failed(tmp_path):
    """If the first use fails there is no result to share: the waiting thread executes, unwarned."""
    is_inside, may_end = threading.Event(), threading.Event()

    def fail():
        is_inside.set()
        assert may_end.wait(GRACE_S)
        raise OSError

    def job(step):
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(step.run, "s", fail)
            assert is_inside.wait(GRACE_S)
            second = pool.submit(step.run, "s", lambda: "second")
            may_end.set()
            assert isinstance(first.exception(GRACE_S), OSError)
            return second.result(GRACE_S)

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.output == "second", run.error
        assert [(s.index, s.status) for s in app.get_steps(run)] == [(0, "completed")]


def test_a_thread_that_waits_for_a_name_is_stopped_with_the_run(tmp_path):
    """A thread that waits for another one's step stops when the run is cancelled."""
    is_inside, may_end = threading.Event(), threading.Event()
    raised = []

    def work():
        is_inside.set()
        assert may_end.wait(GRACE_S)

    def wait(step):
        try:
            step.run("s", work)
        except durably.StopRun as exc:
            raised.append(exc)
        may_end.set()

    def job(step):
        waiting = threading.Thread(target=wait, args=(step,))

        def start_and_cancel():
            assert is_inside.wait(GRACE_S)
            waiting.start()
            app.cancel(step.run_id)

        helper = threading.Thread(target=start_and_cancel)
        helper.start()
        try:
            step.run("s", work)
        finally:
            helper.join(GRACE_S)
            waiting.join(GRACE_S)

    with engine(tmp_path, job) as app:
        assert execute(app).status == "cancelled"
    assert [type(exc) for exc in raised] == [durably.RunCancelled]


def test_a_cancellation_stops_every_thread_of_the_job(tmp_path):
    """All threads of a job find ``step.cancelled`` set, and stop in check, sleep and run."""
    reasons = []
    ready = threading.Barrier(4)

    def stop_in(step, how):
        ready.wait(GRACE_S)
        try:
            if how == "sleep":
                step.sleep(600)
            while True:
                step.check() if how == "check" else step.run(f"{threading.get_ident()}", int)
        except durably.RunCancelled:
            reasons.append((how, step.cancelled))

    def job(step):
        threads = [
            threading.Thread(target=stop_in, args=(step, how)) for how in ("check", "sleep", "run")
        ]
        for thread in threads:
            thread.start()
        ready.wait(GRACE_S)
        app.cancel(step.run_id)
        for thread in threads:
            thread.join(GRACE_S)
        step.check()

    with (
        engine(tmp_path, job, on_duplicate_step="reuse") as app,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", durably.DuplicateStepWarning)
        assert execute(app).status == "cancelled"
    assert sorted(reasons) == [("check", True), ("run", True), ("sleep", True)]


def test_a_step_object_rejects_after_the_end_of_its_run(tmp_path):
    """After the run has ended ``step`` raises StopRun, except for its log."""
    kept = []

    def job(step):
        kept.append(step)

    def work():
        calls.append(1)

    calls = []
    with engine(tmp_path, job) as app:
        run = execute(app)
        lines = record(app, "log:write")
        (step,) = kept
        for use in (
            lambda: step.run("late", work),
            lambda: step.options(retry=durably.Retry()).run("late", work),
            lambda: step.progress(1),
            lambda: step.progress(2, 3, "message"),
            step.check,
            lambda: step.sleep(0),
        ):
            with pytest.raises(durably.StopRun, match=run.id):
                use()
        step.log.info("still here", rows=1)
        assert app.get_steps(run) == []
        assert app.get_run(run).progress is None
    assert calls == []
    assert [(line.message, line.data, line.run_id) for line in lines] == [
        ("still here", {"rows": 1}, run.id)
    ]


@pytest.mark.parametrize("outcome", ["completed", "failed"])
def test_a_step_that_outlives_its_run_is_not_stored(tmp_path, outcome):
    """A thread still inside a step when its run ends gets StopRun, and nothing is completed."""
    is_inside, may_end, is_over = threading.Event(), threading.Event(), threading.Event()
    raised = []

    def work():
        is_inside.set()
        assert may_end.wait(GRACE_S)
        return "late"

    def outlive(step):
        try:
            step.run("late", work)
        except BaseException as exc:
            raised.append(exc)
        is_over.set()

    def job(step):
        threading.Thread(target=outlive, args=(step,)).start()
        assert is_inside.wait(GRACE_S)
        if outcome == "failed":
            raise ValueError

    with engine(tmp_path, job) as app:
        run = execute(app)
        assert run.status == outcome
        events = record(app, "*")
        may_end.set()
        assert is_over.wait(GRACE_S)
        assert isinstance(raised[0], durably.StopRun)
        assert [each.type for each in events] == ["step:cancel"]
        assert [s.status for s in app.get_steps(run)] == ["cancelled"]
        assert app.get_run(run).status == outcome


def test_a_log_line_belongs_to_the_step_of_its_own_thread(tmp_path):
    """Lines are attributed to the step that the logging thread is in, also when steps overlap."""
    barrier = threading.Barrier(2)

    def work(step, name):
        barrier.wait(GRACE_S)
        step.log.info(name)
        barrier.wait(GRACE_S)

    def job(step):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: step.run(name, work, step, name), ["a", "b"]))
        step.log.info("outside")

    with engine(tmp_path, job) as app:
        lines = record(app, "log:write")
        execute(app)
    assert sorted((line.message, line.step_name) for line in lines[:2]) == [("a", "a"), ("b", "b")]
    assert [(line.message, line.step_name) for line in lines[2:]] == [("outside", None)]


def test_a_log_line_after_an_inner_step_belongs_to_the_outer_one(tmp_path):
    """The step that is reported is the innermost one that has not ended, also after a failure."""

    def inner(step, error):
        step.log.info("inside")
        if error:
            raise ValueError("no")

    def outer(step):
        step.run("inner", inner, step, False)
        step.log.info("between")
        with pytest.raises(ValueError, match="no"):
            step.run("failing", inner, step, True)
        step.log.info("after")

    def job(step):
        step.run("outer", outer, step)
        step.log.info("end")

    with engine(tmp_path, job) as app:
        lines = record(app, "log:write")
        assert execute(app).status == "completed"
    assert [(line.message, line.step_name) for line in lines] == [
        *[("inside", "inner"), ("between", "outer"), ("inside", "failing"), ("after", "outer")],
        ("end", None),
    ]
