"""Cells of a real notebook that are executed again, edited, and out of order."""

from __future__ import annotations

from pathlib import Path

import pytest
from notebooks import Notebook

pytestmark = pytest.mark.slow

CLASS = """
    import durably, threading, time
    from attrs import define
    @define
    class P:
        n: int{more}
    """
JOB = """
    @durably.job
    def double(step, p: P) -> int:
        return step.run("double", lambda: p.n * {factor})
    """
ENGINE = """
    app = durably.Durably("nb.db", jobs=[double]).start()
    print(len([t for t in threading.enumerate() if t.name.startswith("durably")]))
    """


def test_cells_of_a_class_a_job_and_an_engine(tmp_path: Path) -> None:
    """Each may be executed again, in any order, and what is executed is what was defined last."""
    with Notebook(tmp_path) as notebook:
        notebook.ok(CLASS.format(more=""))
        notebook.ok(JOB.format(factor=2))
        first = notebook.ok(ENGINE)
        notebook.ok("old, handle = app, app.jobs['double']")
        assert notebook.run("handle.trigger_and_wait(P(1)).output") == "2"

        # The class again: an instance of it is a payload still.
        notebook.ok(CLASS.format(more=""))
        assert notebook.run("handle.trigger_and_wait(P(2)).output") == "4"

        # The class again, edited: the job's cell has to be executed, too.
        notebook.ok(CLASS.format(more="\n        k: int = 0"))
        said = notebook.execute("handle.trigger_and_wait(P(3))")
        assert said.error.startswith("ValidationError: ")
        assert said.error.endswith("; P was defined again after the job: run the job's cell again")
        notebook.ok(JOB.format(factor=3))
        assert notebook.run("app.trigger_and_wait(double, P(3)).output") == "9"

        # The engine's cell again: one engine and its threads are left, and one line says so.
        again = notebook.ok(ENGINE)
        assert again.stdout == first.stdout
        (line,) = again.stderr.splitlines()
        assert "nb.db' was closed, and the new one takes its place" in line
        assert notebook.run("handle.trigger_and_wait(P(4))").startswith("EngineClosedError: ")
        assert notebook.run("app.trigger_and_wait(double, P(4)).output") == "12"

        # The function is renamed, and the job keeps its name.
        notebook.ok("""
            @durably.job("double")
            def twice(step, p: P) -> int:
                return p.n * 20
            """)
        assert notebook.run("app.trigger_and_wait(twice, P(4)).output") == "80"


def test_an_engine_cell_while_a_run_is_executed(tmp_path: Path) -> None:
    """The run goes on in the new engine; a long step is named, and the stop button leaves it."""
    with Notebook(tmp_path) as notebook:
        notebook.ok("""
            import durably, threading, time
            inside, go = threading.Event(), threading.Event()
            @durably.job
            def slow(step) -> list:
                def hang():
                    inside.set(); go.wait(); return "held"
                return [step.run("one", str), step.run("hang", hang), step.run("two", str)]
            """)
        cell = 'app = durably.Durably("nb.db", jobs=[slow]).start()'
        notebook.ok(cell)
        notebook.ok("run = app.trigger(slow); assert inside.wait(30)")
        opening = notebook.begin(cell)
        while "press Ctrl-C" not in opening.stderr:
            assert not opening.is_idle, opening
            notebook.read(opening)
        assert "Stopping after step 'hang'; press Ctrl-C to leave it" in opening.stderr
        notebook.interrupt()
        assert opening.finish().error.startswith("KeyboardInterrupt")
        assert notebook.run("app.get_run(run)").startswith("EngineClosedError: ")
        notebook.ok(cell)
        notebook.ok("go.set()")
        assert notebook.run("app.wait(run, timeout=30).output") == "['', 'held', '']"


def test_the_file_is_removed_between_two_cells(tmp_path: Path) -> None:
    """``rm`` and the engine's cell again begin a new file."""
    with Notebook(tmp_path) as notebook:
        notebook.ok("import durably\n@durably.job\ndef one(step): return step.run('a', int)")
        cell = 'app = durably.Durably("nb.db", jobs=[one]).start()'
        notebook.ok(cell)
        notebook.ok("app.trigger_and_wait(one)")
        notebook.ok("!rm nb.db*")
        notebook.ok(cell)
        assert notebook.run("app.trigger_and_wait(one).output, app.count_runs()") == "(0, 1)"


def test_a_module_that_is_loaded_again(tmp_path: Path) -> None:
    """With %autoreload the job of the edited module replaces the one before, under its name."""
    source = """
import durably
from dataclasses import dataclass
@dataclass
class Q:
    n: int
@durably.job
def load(step, q: Q) -> str:
    return step.run("load", lambda: f"{} {{q.n}}")
"""
    module = tmp_path / "edited.py"
    module.write_text(source.format("old"))
    with Notebook(tmp_path) as notebook:
        notebook.ok("%load_ext autoreload\n%autoreload 2\nimport durably, edited")
        notebook.ok('app = durably.Durably("nb.db").start()')
        cell = "app.register(edited.load); app.trigger_and_wait('load', edited.Q(1)).output"
        assert notebook.run(cell) == "'old 1'"
        notebook.ok("kept = edited.Q(2)")
        module.write_text(source.format("edited"))  # of another size: the time may be the same
        assert notebook.run(cell) == "'edited 1'"
        assert notebook.run("app.trigger_and_wait('load', kept).output") == "'edited 2'"
