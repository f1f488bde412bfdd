"""A notebook in a real kernel: cells again, edited, out of order; stopped, killed, run all."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from notebooks import Execution, Notebook

import durably

pytestmark = pytest.mark.slow

CLASS = """
    import time
    import durably
    from attrs import define

    @define
    class Crawl:
        pages: int = 6
"""
JOB = """
    def fetch(page: int) -> int:
        print("page", page)
        return page * page

    @durably.job("crawl")
    def crawl(step: durably.StepContext, p: Crawl) -> int:
        total = 0
        for page in range(p.pages):
            total += step.run(f"page-{page}", fetch, page)
        return total
"""
SQUARE = "return page * page"
FAILS_AT_3 = JOB.replace(SQUARE, "return page * page if page != 3 else 1 // (page - 3)")
HANGS_AT_3 = JOB.replace(
    SQUARE, "return page * page if page != 3 else print('hanging') or time.sleep(600)"
)
ENGINE = "app = durably.Durably('nb.db')"
RUN = "run = app.run(crawl, Crawl(), key='crawl-1'); run.output"
SUM = "55"  # of the first six squares
NEXT_MOVE = (
    "Completed steps are kept. Fix the cause and run this cell again: it continues at 'page-3'."
)


@pytest.fixture(scope="module")
def shared_notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A kernel for the tests that need none of their own."""
    with Notebook(tmp_path_factory.mktemp("notebook")) as notebook:
        yield notebook


@pytest.fixture
def notebook(shared_notebook: Notebook, tmp_path: Path) -> Iterator[Notebook]:
    """The shared kernel in the test's folder, with no engine open and nothing defined."""
    shared_notebook.ok(f"import os; os.chdir({str(tmp_path)!r})")
    yield shared_notebook
    shared_notebook.ok("""
        for value in list(globals().values()):
            if type(value).__module__.startswith("durably") and hasattr(value, "close"):
                value.close()
    """)
    shared_notebook.ok("%reset -f")


def fetched(cell: Execution) -> list[int]:
    """The pages that were fetched while the cell was executed."""
    return [int(line.split()[1]) for line in cell.stdout.splitlines() if line.startswith("page ")]


def run_all(notebook: Notebook, *cells: str) -> Execution:
    """Execute the cells in order; the last one, as it is displayed. Those before it succeed."""
    for cell in cells[:-1]:
        notebook.ok(cell)
    return notebook.execute(cells[-1])


def stored(folder: Path, name: str = "nb.db") -> list[durably.Run]:
    """The runs of the file, oldest first, read by this process."""
    with closing(durably.Durably(folder / name)) as app:
        return app.get_runs()[::-1]


def test_a_job_prints_in_the_cell_that_runs_it(notebook: Notebook) -> None:
    """``app.run`` executes the job in the cell, and the cell again returns the stored result."""
    cell = run_all(notebook, CLASS, JOB, ENGINE, RUN)
    assert (cell.result, fetched(cell)) == (SUM, [0, 1, 2, 3, 4, 5])

    again = notebook.ok(RUN)

    assert (again.result, fetched(again)) == (SUM, [])
    assert notebook.ok("run.disposition").result == "'idempotent'"


def test_a_job_cell_run_again_replaces_the_job(notebook: Notebook) -> None:
    """After an edit, ``app.run`` executes today's code, and old results stay."""
    assert run_all(notebook, CLASS, JOB, ENGINE, RUN).result == SUM
    notebook.ok(JOB.replace("total = 0", "total = 100"))

    assert notebook.ok(RUN).result == SUM
    assert notebook.ok("app.run(crawl, Crawl(), key='crawl-2').output").result == "155"


def test_a_job_cell_run_again_is_what_a_handle_triggers(notebook: Notebook) -> None:
    """A handle from before the edit triggers today's code, and so does the name of the job."""
    run_all(notebook, CLASS, JOB, f"{ENGINE}.start(); handle = app.register(crawl)")
    notebook.ok(JOB.replace("total = 0", "total = 100"))

    assert notebook.ok("handle.trigger_and_wait(Crawl()).output").result == "155"
    assert notebook.ok("app.trigger_and_wait('crawl', Crawl()).output").result == "155"


def test_a_failed_run_continues_with_the_corrected_code(notebook: Notebook) -> None:
    """Failed, corrected, again: the completed steps keep their results, and the rest executes."""
    assert run_all(notebook, CLASS, FAILS_AT_3, ENGINE, RUN).error.startswith("RunFailedError: ")

    cell = run_all(notebook, JOB, RUN)

    assert (cell.result, fetched(cell)) == (SUM, [3, 4, 5])


def test_a_notebook_says_that_code_has_changed_and_executes_it_again_if_asked(
    notebook: Notebook,
) -> None:
    """The bug of a page is fixed; and then a page that an earlier step had read wrongly."""
    notebook.ok("""
        import logging, sys
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    """)
    run_all(notebook, CLASS, FAILS_AT_3, ENGINE, RUN)

    cell = run_all(notebook, JOB.replace("total = 0", "total = 100"), RUN)

    changed = "its code has changed since attempt 1; 3 completed steps keep their results"
    assert changed in cell.stdout
    assert "step 'page-0' was stored by an earlier version of fetch()" in cell.stderr
    assert "app.redo(run, from_step='page-0')" in cell.stderr
    assert notebook.ok("run.code_changed").result == "True"
    assert notebook.ok("app.plan(run).code_changed").result == "False"
    assert notebook.ok("[step.code_changed for step in run.plan().steps]").result == (
        "[True, True, True, False, False, False]"
    )
    notebook.ok("app.redo(run, from_step='page-1')")
    assert fetched(notebook.ok(RUN)) == [1, 2, 3, 4, 5]
    notebook.ok("logging.basicConfig(level=logging.WARNING, handlers=[], force=True)")


def test_a_notebook_executes_again_what_has_changed(notebook: Notebook) -> None:
    """With ``on_change="redo"``: the bug in a page, and then a page that was read wrongly."""
    plain, redo = '@durably.job("crawl")', '@durably.job("crawl", on_change="redo")'
    fails, job = (cell.replace(plain, redo) for cell in (FAILS_AT_3, JOB))
    assert run_all(notebook, CLASS, fails, ENGINE, RUN).error.startswith("RunFailedError: ")
    cell = run_all(notebook, job, RUN)
    assert (cell.result, fetched(cell), cell.stderr) == (SUM, [0, 1, 2, 3, 4, 5], "")
    assert notebook.ok("run.code_changed").result == "False"


def test_a_session_executes_again_what_has_changed(notebook: Notebook) -> None:
    """An edited cell, the cells below it, and all of them after a restart are executed again."""
    opened = "step = durably.session('study', 'study.db', key='study', on_change='redo')"
    load = "rows = step.run('load', lambda: print('load') or [1, 2, 300])"
    clean = """
        def clean(rows):
            print("clean")
            return [row for row in rows if row < limit]
        limit = 100
        kept = step.options(depends_on=limit).run("clean", clean, rows)
        """
    mean = "print(step.run('mean', lambda: print('mean') or sum(kept) / len(kept)))"

    def execute(**cells: str) -> str:
        found = [notebook.ok(cell, cell_id=name).stdout for name, cell in cells.items()]
        return " ".join("".join(found).split())

    assert execute(a="import durably", b=opened, c=load, d=clean, e=mean) == "load clean mean 1.5"
    assert execute(c=load, d=clean, e=mean) == "1.5"
    assert execute(d=clean.replace("100", "1000"), e=mean) == "clean mean 101.0"
    assert execute(c=load.replace("300", "30"), d=clean, e=mean) == "load clean mean 11.0"
    assert execute(b=f"step.close(); {opened}", c=load, d=clean, e=mean) == ("load clean mean 1.5")
    assert execute(c=load, d=clean, e=mean.replace("sum", "max")) == "mean 1.0"
    notebook.ok("step.close()")


def test_a_class_cell_run_again_fits_the_job_that_was_defined_before(notebook: Notebook) -> None:
    """A class that was defined again is accepted by way of its fields."""
    assert run_all(notebook, CLASS, JOB, ENGINE, RUN).result == SUM

    cell = run_all(notebook, CLASS, "app.run(crawl, Crawl(3), key='crawl-2').output")

    assert cell.result == "5"


def test_a_class_that_no_longer_fits_its_job_is_named(notebook: Notebook) -> None:
    """A class defined again with other fields: the error says to run the job's cell again."""
    run_all(notebook, CLASS, JOB, ENGINE, RUN)

    cell = run_all(notebook, CLASS.replace("pages: int", "sheets: int"), RUN.replace("-1", "-2"))

    assert cell.error.startswith("ValidationError: ")
    assert "Crawl was defined again after the job: run the job's cell again" in cell.error
    repaired = JOB.replace("p.pages", "p.sheets")
    assert run_all(notebook, repaired, RUN.replace("-1", "-2")).result == SUM


def test_an_engine_cell_run_again_replaces_the_engine(notebook: Notebook) -> None:
    """The engine before it is closed, one line says so, and the new one executes."""
    assert run_all(notebook, CLASS, JOB, ENGINE, "old = app", RUN).result == SUM

    replaced = notebook.ok(ENGINE)

    assert len(replaced.stderr.splitlines()) == 1
    assert "nb.db" in replaced.stderr
    assert notebook.execute("old.get_runs()").error.startswith("EngineClosedError: ")
    assert notebook.ok("app.run(crawl, Crawl(3), key='crawl-2').output").result == "5"


def test_an_engine_cell_run_again_continues_what_the_pool_was_executing(notebook: Notebook) -> None:
    """A run in the pool of the replaced engine goes back, and the new engine continues it."""
    run_all(notebook, CLASS, "import threading; inside = threading.Event()")
    notebook.ok("""
        def wait(page):
            inside.set()
            while not context.cancelled:  # until the engine is replaced
                time.sleep(0.005)
            return page * page
    """)
    waiting = JOB.replace(SQUARE, "return page * page if page != 3 else wait(page)")
    notebook.ok(waiting.replace("total = 0", "global context; context = step; total = 0"))
    notebook.ok(
        f"{ENGINE}.start(); pending = app.trigger(crawl, Crawl(), idempotency_key='crawl-1')"
    )
    notebook.ok("inside.wait(60)")

    notebook.ok(ENGINE)
    cell = notebook.ok(RUN)

    assert (cell.result, fetched(cell)) == (SUM, [4, 5])
    threads = "[t.name for t in threading.enumerate() if 'durably' in t.name]"
    assert notebook.ok(threads).result == "[]"


def test_a_removed_file_is_made_anew_by_the_engine_cell(notebook: Notebook, tmp_path: Path) -> None:
    """After ``rm`` of the database its cell makes a new, empty file, without trouble."""
    assert run_all(notebook, CLASS, JOB, ENGINE, RUN).result == SUM
    notebook.ok("!rm nb.db*")

    cell = run_all(notebook, ENGINE, RUN)

    assert (cell.result, fetched(cell)) == (SUM, [0, 1, 2, 3, 4, 5])
    assert len(stored(tmp_path)) == 1


@pytest.mark.parametrize(
    ("how", "dot"), [("import mod", "mod."), ("from mod import job, Payload", "")]
)
def test_autoreload_of_a_module_executes_what_is_in_its_file(
    tmp_path: Path, how: str, dot: str
) -> None:
    """With ``%autoreload 2``, ``app.run`` uses a module's job and payload class as edited."""
    old = textwrap.dedent("""
        import durably
        from dataclasses import dataclass

        @dataclass
        class Payload:
            n: int

        @durably.job("of-a-module")
        def job(step: durably.StepContext, p: Payload) -> str:
            return step.run("a", lambda: "old")
    """)
    new = old.replace("n: int", "n: int\n    k: int = 7").replace('"old"', 'f"new {p.k}"')
    run = f"app.run({dot}job, {dot}Payload(1)).output"
    (tmp_path / "mod.py").write_text(old)
    with Notebook(tmp_path) as notebook:
        notebook.ok("%load_ext autoreload\n%autoreload 2")
        assert run_all(notebook, f"import durably\n{how}", ENGINE, run).result == "'old'"

        (tmp_path / "mod.py").write_text(new)  # of another size, so that it counts as changed

        assert notebook.ok(run).result == "'new 7'"


def test_the_stop_button_leaves_a_step_at_once_and_keeps_the_others(
    notebook: Notebook, tmp_path: Path
) -> None:
    """Interrupted in a step: the error says what is kept; the cell again continues there."""
    notebook.ok(CLASS), notebook.ok(HANGS_AT_3), notebook.ok(ENGINE)
    cell = notebook.begin(RUN).wait_for("hanging")
    notebook.interrupt()
    cell.finish()

    assert cell.error.startswith("KeyboardInterrupt")
    assert "'page-3'" in cell.traceback
    assert "3 completed steps are kept" in cell.traceback
    [run] = stored(tmp_path)
    assert (run.status, run.completed_steps) == ("pending", 3)
    again = run_all(notebook, JOB, RUN)
    assert (again.result, fetched(again)) == (SUM, [3, 4, 5])


def test_a_killed_kernel_goes_on_with_run_all(tmp_path: Path) -> None:
    """The kernel dies in a step. A new one, all cells again: it continues with that step."""
    with Notebook(tmp_path) as notebook:
        notebook.ok(CLASS), notebook.ok(HANGS_AT_3), notebook.ok(ENGINE)
        notebook.begin(RUN).wait_for("hanging")
        notebook.restart()

        cell = run_all(notebook, CLASS, JOB, ENGINE, RUN)

        assert (cell.result, fetched(cell)) == (SUM, [3, 4, 5])
        assert notebook.ok("(run.attempt, run.disposition)").result == "(2, 'continued')"


def test_a_kernel_that_is_shut_down_ends_at_once(tmp_path: Path) -> None:
    """An engine that is open, even started, does not hold up "Shut Down Notebook"."""
    with Notebook(tmp_path) as notebook:
        assert run_all(notebook, CLASS, JOB, f"{ENGINE}.start()", RUN).result == SUM

        assert notebook.shut_down() == 0


def test_a_bad_payload_shows_one_sentence(notebook: Notebook) -> None:
    """A payload that does not fit is shown without private objects or frames of durably."""
    cell = run_all(notebook, CLASS, JOB, ENGINE, "app.run(crawl, {'pages': 'six'})")

    assert cell.error.startswith("ValidationError: ")
    assert "pages" in cell.error
    assert "cattrs" not in cell.traceback
    assert "During handling" not in cell.traceback


SESSION = "step = durably.session('churn', 'churn.db')"
STEPS = """
    def read(name: str) -> list[int]:
        print("reading", name)
        return [1, 2, 3]

    rows = step.run("read", read, "a.csv")
    total = step.run("total", sum, rows)
    total
"""


def test_a_session_in_cells_replays_after_a_restart(tmp_path: Path) -> None:
    """A kernel killed, all cells again: each finished step returns from its checkpoint."""
    with Notebook(tmp_path) as notebook:
        first = run_all(notebook, "import durably", SESSION, STEPS)
        assert (first.result, first.stdout) == ("6", "reading a.csv\n")
        notebook.restart()

        again = run_all(notebook, "import durably", SESSION, STEPS)

        assert (again.result, again.stdout) == ("6", "")
        notebook.ok("step.close()")
        [run] = stored(tmp_path, "churn.db")
        assert (run.job_name, run.kind, run.status) == ("churn", "session", "pending")


def test_a_session_cell_run_again_returns_its_results(notebook: Notebook) -> None:
    """The same cell executed again may use its names again: they return from their checkpoints."""
    assert run_all(notebook, "import durably", SESSION, STEPS).stdout == "reading a.csv\n"

    again = notebook.ok(STEPS)

    assert (again.result, again.stdout) == ("6", "")


def test_a_session_name_in_two_cells_is_an_error(notebook: Notebook) -> None:
    """A name that another cell has used, or that is used twice in one cell, is a mistake."""
    run_all(notebook, "import durably", SESSION, STEPS)

    assert notebook.execute("step.run('read', len, [])").error.startswith("DuplicateStepError: ")
    twice = notebook.execute("for _ in range(2): step.run('b', len, [])")
    assert twice.error.startswith("DuplicateStepError: ")


def test_a_session_opened_again_takes_over(notebook: Notebook) -> None:
    """The session's cell again: the new object goes on, and the old one raises StopRun."""
    run_all(notebook, "import durably", SESSION, STEPS)
    notebook.ok("old = step")

    again = run_all(notebook, SESSION, STEPS)

    assert (again.result, again.stdout) == ("6", "")
    assert notebook.execute("old.run('c', len, [])").error.startswith("StopRun: ")


def test_a_session_that_is_interrupted_goes_on(notebook: Notebook, tmp_path: Path) -> None:
    """The stop button in a step leaves the session open; the cell again executes that step."""
    run_all(notebook, "import durably, time", SESSION, STEPS)
    slow = "def slow(): print('inside'); time.sleep({}); return 7\nstep.run('slow', slow)"
    cell = notebook.begin(slow.format(600)).wait_for("inside")
    notebook.interrupt()
    assert cell.finish().error.startswith("KeyboardInterrupt")

    assert notebook.ok(slow.format(0)).result == "7"


def test_a_failed_cell_shows_the_users_frames_and_the_next_move(notebook: Notebook) -> None:
    """What the kernel sends: one line, the frames in the user's cells, and what to do; no more."""
    notebook.ok(CLASS)
    job = notebook.ok(FAILS_AT_3).number
    cell = run_all(notebook, ENGINE, RUN)

    failure = "ZeroDivisionError: integer division or modulo by zero"
    message = f"crawl failed in step 'page-3' after 3 completed steps: {failure}"
    assert cell.error == f"RunFailedError: {message}"
    lines = [line.strip() for line in cell.traceback.splitlines() if line.strip()]
    assert lines == [
        f"RunFailedError: {message}",
        f"Cell In[{job}], line 9, in crawl",
        'total += step.run(f"page-{page}", fetch, page)',
        f"Cell In[{job}], line 3, in fetch",
        "return page * page if page != 3 else 1 // (page - 3)",
        NEXT_MOVE,
    ]


def test_a_debugger_opens_where_the_job_failed(tmp_path: Path) -> None:
    """``%debug`` after a failed cell is in the frame of the user's function that raised."""
    with Notebook(tmp_path) as notebook:
        run_all(notebook, CLASS, FAILS_AT_3, ENGINE, RUN)

        debugger = notebook.begin("%debug")
        debugger.answer("p ('the page is', page)")
        debugger.answer("q")

        assert "('the page is', 3)" in debugger.finish().stdout
