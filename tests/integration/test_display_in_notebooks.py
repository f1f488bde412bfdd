"""What a notebook displays below the cell that waits, in a real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from notebooks import Execution, Notebook

pytestmark = pytest.mark.slow

DEFINE = """
import time
import durably
from attrs import define
@define
class Crawl:
    pages: int = 20
    delay: float = 0.1
def fetch(number: int, delay: float) -> int:
    print("page", number)
    time.sleep(delay)
    {bad}
    return number * number
@durably.job("crawl")
def crawl(step, p: Crawl) -> int:
    total = 0
    for number in range(p.pages):
        total += step.run(f"page-{{number}}", fetch, number, p.delay)
        step.progress(number + 1, p.pages)
    return total
app = durably.Durably("nb.db")
"""
CALL = 'run = app.run(crawl, Crawl(), key="crawl-1")'
THREADS = "import threading; [t.name for t in threading.enumerate() if 'display' in t.name]"


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    with Notebook(tmp_path) as notebook:
        yield notebook


def last(execution: Execution) -> str:
    """What stays below the cell, as text."""
    return str(execution.displays[-1]["text/plain"])


def test_the_session_of_the_targets(notebook: Notebook) -> None:
    """Stopped, failed, resumed with the code of today; each state stays below its cell."""
    notebook.ok(DEFINE.format(bad="if number == 14: return 1 // (number - 14)"))
    stopped = notebook.begin(CALL).wait_for("page 8")
    notebook.interrupt()
    stopped.finish()
    failed = notebook.execute(CALL)
    notebook.ok(DEFINE.format(bad=""))
    done = notebook.execute(CALL)
    again = notebook.execute(CALL)
    threads = notebook.ok(THREADS)

    kept = int(stopped.stdout.split()[-1])
    assert stopped.displays[0]["text/plain"].startswith("crawl ▸running ▕█")
    assert " left · now: page-" in stopped.displays[0]["text/plain"]
    assert f"▏ {kept}/20 · " in last(stopped)
    assert last(stopped).startswith("crawl ■stopped ▕████████████")
    assert stopped.traceback.startswith(
        f"KeyboardInterrupt: stopped in step 'page-{kept}'; {kept} completed"
    )
    assert last(failed).startswith("crawl ✗failed ▕░░░░░░░░░░░░")
    assert f"█✗        ▏ 14/20 · {kept} from checkpoints · " in last(failed)
    assert last(done).startswith("crawl ✓completed ▕░░░░░░░░░░░░░░░░░░░░░█████████▏ 20/20 · 14 ")
    assert "background-color:#2e7d32" in done.displays[-1]["text/html"]
    assert not done.error
    assert (again.displays, again.stdout) == ([], "")
    assert threads.result == "[]"
    # That today's fetch() differs from the one whose results are used is said once.
    assert done.stderr.count("CodeChangedWarning") == 1
    for execution in (stopped, failed, again):
        assert not execution.stderr.replace("\n", "")
    for execution in (stopped, failed, done):
        # At most four times a second.
        assert 2 <= len(execution.displays) <= 10


def test_a_kernel_that_was_killed(notebook: Notebook) -> None:
    """Run All in the next one goes on, and the line says why there are checkpoints."""
    notebook.ok(DEFINE.format(bad=""))
    notebook.begin(CALL).wait_for("page 8")
    notebook.restart()
    notebook.ok(DEFINE.format(bad=""))
    done = notebook.execute(CALL)

    assert not done.error
    assert not done.stderr.strip()
    kept = int(done.stdout.split()[1])
    died = f"/20</bdi> · {kept} from checkpoints (the kernel before this one died) · "
    assert died in done.displays[0]["text/html"]
    assert f"20/20 · {kept} from checkpoints · " in last(done)


def test_maps_and_sessions_and_hostile_names(notebook: Notebook) -> None:
    """A session is displayed by each cell that executes its steps, and by no other one."""
    notebook.ok("import time, durably")
    mapped = notebook.ok(
        'durably.map(time.sleep, [0.1] * 20, db="m.db", name="<b>naps\\u202e", max_workers=3)'
    )
    opened = notebook.ok(
        'step = durably.session("s", "s.db")\n'
        'for number in range(8): step.run(f"a{number}", time.sleep, 0.1)'
    )
    used = notebook.ok('for number in range(8): step.run(f"b{number}", time.sleep, 0.1)')
    idle = notebook.ok("time.sleep(0.8)")
    closed = notebook.ok(f"step.close(); {THREADS}")

    assert last(mapped) == "<b>naps\\u202e: 20 of 20 done (0 before), 0 failed, 1 s"
    html = mapped.displays[0]["text/html"]
    assert "<bdi>&lt;b&gt;naps\\u202e</bdi></b>" in html
    assert "from checkpoints" not in html
    assert last(opened).startswith("s ▸open 8 steps · ")
    assert last(used).startswith("s ▸open 16 steps · ")
    assert float(last(used).split(" · ")[1].split()[0]) > 5
    assert idle.displays == closed.displays == []
    assert closed.result == "[]"
