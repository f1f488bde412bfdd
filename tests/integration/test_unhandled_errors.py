"""What a script prints that fails, and its exit status: no frame of durably, and the next move."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import DEADLINE_S, ENVIRONMENT, PROGRAMS
from notebooks import Notebook

import durably
from durably._platform import unhandled

FAILS = PROGRAMS / "fails.py"
SOURCE = FAILS.read_text(encoding="utf-8").splitlines()


def frame(function: str, line: str, indent: str = "  ") -> str:
    """The lines that show the frame in which *line* of the program is executed."""
    number = next(n for n, text in enumerate(SOURCE, 1) if text.strip() == line)
    return f'{indent}File "{FAILS}", line {number}, in {function}\n{indent}  {line}\n'


STEP = 'done += step.run(f"batch-{row}", insert, [row])'
RAISE = 'raise ValueError(f"bad row {rows!r}")'
FRAMES = frame("nightly", STEP) + frame("insert", RAISE)
ERROR = "ValueError: bad row ['bad']\n"
RETRY = "start it again with retry('ID')"
# What continues it from a shell.
SHELL = "Or put it back to pending:    durably retry ID\n"
SHELL_AFTER_A_STEP = (
    "Or put it back to pending:                                       durably retry ID\n"
    "If an earlier step read the bad input and it was fixed since:    "
    "durably redo ID --from batch-a\n"
)
KEPT = "Completed steps are kept. Fix the cause and {again}: it continues at 'batch-bad'.\n"


def printed(way: str, path: Path) -> tuple[str, str]:
    """What the program writes to its standard output and error; it ends with exit status 1."""
    ended = subprocess.run(
        [sys.executable, FAILS, way, str(path / "fails.db")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "durably/" not in ended.stderr.replace(str(FAILS), "")
    return ended.stdout, ended.stderr


def without_ids(text: str) -> str:
    text = re.sub("\\(run …[0-9A-Z]{8}\\)", "(run …ID)", text)
    text = re.sub(r" --db \S+/fails.db\n", "\n", text)
    text = re.sub("durably (retry|redo) [0-9A-Z]{8}", r"durably \1 ID", text)
    return re.sub(r"retry\('[0-9A-Z]{26}'\)", "retry('ID')", text)


def without_marks(text: str) -> str:
    """Without the lines of Python's that mark the part of a line that has failed."""
    return "".join(line for line in text.splitlines(keepends=True) if line.strip(" ^~\n"))


def test_the_mail_of_a_job_that_fails_under_cron(tmp_path: Path) -> None:
    """The job, its key, the step, the frames of the user, the error, the next move."""
    _, text = printed("run", tmp_path)
    assert without_ids(text) == (
        "nightly-import users-2026-11-27 failed in step 'batch-bad' after 2 completed steps "
        f"(run …ID):\n{FRAMES}{ERROR}{KEPT.format(again='start it again')}{SHELL_AFTER_A_STEP}"
    )
    with durably.Durably(tmp_path / "fails.db") as app:
        (run,) = app.get_runs()
    assert f"(run …{run.id[-8:]})" in text
    assert text.endswith(f"{run.id[-8:]} --from batch-a --db {tmp_path / 'fails.db'}\n")


@pytest.mark.parametrize(
    ("way", "before"), [("pool", ""), ("thread", "Exception in thread mine:\n")]
)
def test_a_run_that_is_waited_for_in_the_pool(tmp_path: Path, way: str, before: str) -> None:
    """The same, also in a thread of the user's; without the key, which it has not."""
    _, text = printed(way, tmp_path)
    assert without_ids(text) == (
        f"{before}nightly-import failed in step 'batch-bad' after 2 completed steps (run …ID):\n"
        f"{FRAMES}{ERROR}{KEPT.format(again=RETRY)}{SHELL_AFTER_A_STEP}"
    )


def test_a_first_step_that_fails_keeps_none(tmp_path: Path) -> None:
    """The message says nothing of completed steps."""
    _, text = printed("one line", tmp_path)
    assert without_ids(text) == (
        "nightly-import failed in step 'batch-bad' after 0 completed steps (run …ID):\n"
        f"{FRAMES}{ERROR}Fix the cause and start it again: it continues at 'batch-bad'.\n"
        f"{SHELL}"
    )


def test_an_error_of_the_user_that_was_raised_from_it(tmp_path: Path) -> None:
    """Python's own traceback of all of them is printed, without durably's frames."""
    _, text = printed("chain", tmp_path)
    expected = "".join(
        [
            f"Traceback (most recent call last):\n{FRAMES}{ERROR}",
            "\nThe above exception was the direct cause of the following exception:\n\n",
            "Traceback (most recent call last):\n",
            frame("from_another_error", "trigger_and_wait(app)"),
            frame("trigger_and_wait", 'app.trigger_and_wait(nightly, ["a", "b", "bad"])'),
            "durably.RunFailedError: nightly-import failed in step 'batch-bad' after 2 ",
            f"completed steps: {ERROR}{FRAMES}",
            KEPT.format(again=RETRY),
            "\nThe above exception was the direct cause of the following exception:\n\n",
            "Traceback (most recent call last):\n",
            frame("<module>", "CALLS[way](app)"),
            frame("from_another_error", 'raise LookupError("no rows") from exc'),
            "LookupError: no rows\n",
        ]
    )
    assert without_marks(without_ids(text)) == without_marks(expected)


def test_a_hook_that_is_installed_later_is_called_first(tmp_path: Path) -> None:
    """With the error itself; then it is printed as without that hook."""
    out, text = printed("hook", tmp_path)
    assert out == "RunFailedError cause: ValueError\n"
    assert without_ids(text).startswith("nightly-import failed in step 'batch-bad' after 2 ")


def test_a_session_fails_with_the_error_of_the_user(tmp_path: Path) -> None:
    """With a note that says how to continue."""
    _, text = printed("session", tmp_path)
    assert without_marks(text) == "".join(
        [
            "Traceback (most recent call last):\n",
            frame("<module>", "CALLS[way](app)"),
            frame("in_a_session", 'step.run("batch-1", insert, ["bad"])'),
            frame("insert", RAISE),
            ERROR,
            "import-users failed in step 'batch-1' after 1 completed step. Completed steps are ",
            "kept. Fix the cause and start it again: it continues at 'batch-1'.\n",
        ]
    )


@pytest.mark.parametrize("way", ["validation", "not found", "wrong call", "retry", "job"])
def test_an_error_of_durably_ends_at_the_line_of_the_user(tmp_path: Path, way: str) -> None:
    """Python's own traceback, of which the last frame is the call."""
    _, text = printed(way, tmp_path)
    lines = without_marks(text).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2].strip().startswith(f'"{way}": lambda app:')
    assert len(lines) == 6


@pytest.mark.parametrize(
    "call", ["run(job, {})", "map(len, [1], {})", "imap(len, [1], {})", "session('s', {})"]
)
def test_an_unknown_option_ends_there_too(tmp_path: Path, call: str) -> None:
    """Also if no engine was opened before. The error names the option that is meant."""
    script = tmp_path / "script.py"
    line = f"durably.{call.format('workers=2')}"
    script.write_text(f"import durably\n@durably.job\ndef job(step): ...\n{line}\n")
    ended = subprocess.run(
        [sys.executable, script],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert without_marks(ended.stderr) == (
        f'Traceback (most recent call last):\n  File "{script}", line 4, in <module>\n    {line}\n'
        f"TypeError: {call.partition('(')[0]}() got an unexpected keyword argument 'workers'. "
        "Did you mean 'max_workers'?\n"
    )
    assert list(tmp_path.iterdir()) == [script]


# -- the hooks ---------------------------------------------------------------------------------


@pytest.fixture
def _hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python's own hooks, and afterwards those that were there."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    return  # type: ignore[return-value]


def failed(tmp_path: Path) -> durably.RunFailedError:
    @durably.job
    def job(step: durably.StepContext) -> None:
        step.run("a", int, "x")

    with (
        durably.Durably(tmp_path / "hooks.db") as app,
        pytest.raises(durably.RunFailedError) as caught,
    ):
        app.trigger_and_wait(job)
    return caught.value


@pytest.mark.usefixtures("_hooks")
def test_hooks_are_installed_once_and_call_the_ones_before(tmp_path: Path) -> None:
    """The hooks before get the error, and print it as they like."""
    seen: list[Any] = []
    sys.excepthook = lambda *args: seen.append(args)
    threading.excepthook = seen.append
    exc = failed(tmp_path)
    installed = sys.excepthook, threading.excepthook
    failed(tmp_path)
    assert (sys.excepthook, threading.excepthook) == installed

    installed[0](type(exc), exc, exc.__traceback__)
    thread = threading.current_thread()
    installed[1](threading.ExceptHookArgs((type(exc), exc, exc.__traceback__, thread)))

    assert seen[0] == (type(exc), exc, exc.__traceback__)
    assert tuple(seen[1]) == (type(exc), exc, exc.__traceback__, thread)


@pytest.mark.usefixtures("_hooks")
def test_hooks_are_installed_again_where_other_code_has_restored_its_own(tmp_path: Path) -> None:
    """As a test runner does that replaces them for a while."""
    failed(tmp_path)
    installed = sys.excepthook
    sys.excepthook = sys.__excepthook__
    failed(tmp_path)
    assert type(sys.excepthook) is type(installed)


@pytest.mark.usefixtures("_hooks")
def test_nothing_is_printed_without_a_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program without a console has none."""
    exc = failed(tmp_path)
    hooks = sys.excepthook, threading.excepthook
    monkeypatch.setattr(sys, "stderr", None)
    hooks[0](type(exc), exc, exc.__traceback__)
    hooks[1](threading.ExceptHookArgs((type(exc), exc, None, None)))


@pytest.mark.usefixtures("_hooks")
def test_a_thread_that_is_not_pythons_is_named_by_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Python does."""
    exc = failed(tmp_path)
    threading.excepthook(threading.ExceptHookArgs((type(exc), exc, None, None)))
    text = capsys.readouterr().err
    assert text.startswith(f"Exception in thread {threading.get_ident()}:\njob failed in step 'a'")


def test_a_note_that_a_class_forbids_is_left_out() -> None:
    """The exception goes on to the caller as it is."""

    class FrozenError(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    exc = FrozenError()
    unhandled.add_note(exc, "note")
    assert not hasattr(exc, "__notes__")


# -- tracebacks of errors that are handled ---------------------------------------------------


def test_an_error_leaves_a_call_without_frames_of_durably(tmp_path: Path) -> None:
    """Loggers and test runners show none of them either."""

    @durably.job
    def job(step: durably.StepContext, number: int) -> None:
        try:
            step.run("a", int, "x")
        except ValueError as exc:
            seen.append(exc)
            raise

    seen: list[BaseException] = []
    with durably.Durably(tmp_path / "live.db", jobs=[job]) as app:
        calls = [
            lambda: app.trigger(job, "x"),
            lambda: app.jobs["job"].trigger("x"),
            lambda: app.get_runs(limit=-1),
            lambda: app.wait("NO"),
            lambda: app.trigger_and_wait(job, 1),
            lambda: app.run(job, 1),
            lambda: app.jobs["job"].trigger(nothing=1),  # type: ignore[call-arg]
        ]
        for call in calls:
            with pytest.raises(Exception, match=r".") as caught:
                call()
            seen.append(caught.value)
    app.close()
    with pytest.raises(durably.EngineClosedError) as closed:
        app.get_runs()
    seen.append(closed.value)
    assert len(seen) == len(calls) + 3
    for exc in seen:
        entry = exc.__traceback__
        while entry is not None:
            assert entry.tb_frame.f_code.co_filename == __file__
            entry = entry.tb_next


# -- a notebook --------------------------------------------------------------------------------


CELLS = [
    """
    import time
    import durably
    from attrs import define

    @define
    class Crawl:
        pages: int = 30
        delay: float = 0.0
    """,
    """
    def fetch(i: int, delay: float) -> int:
        time.sleep(delay)
        if i == 20:
            return 1 // (i - 20)
        return i * i

    @durably.job("crawl")
    def crawl(step: durably.StepContext, p: Crawl) -> int:
        total = 0
        for i in range(p.pages):
            total += step.run(f"page-{i}", fetch, i, p.delay)
        return total
    """,
    """
    app = durably.Durably("nb.db")
    """,
]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with Notebook(tmp_path_factory.mktemp("failures")) as opened:
        for cell in CELLS:
            opened.ok(cell)
        yield opened


SHOWN = """\
RunFailedError: crawl failed in step 'page-20' after 20 completed steps: \
ZeroDivisionError: integer division or modulo by zero

  Cell In[2], line 11, in crawl
    total += step.run(f"page-{i}", fetch, i, p.delay)
  Cell In[2], line 4, in fetch
    return 1 // (i - 20)

Completed steps are kept. Fix the cause and AGAIN: it continues at 'page-20'."""


def test_a_failed_run_in_a_notebook(notebook: Notebook) -> None:
    """The line, the frames of the cells, the next move; and the debugger begins in the step."""
    cell = notebook.execute("run = app.run(crawl, Crawl(), key='crawl-1')")
    assert cell.traceback == SHOWN.replace("AGAIN", "run this cell again")
    assert cell.error == SHOWN.splitlines()[0]

    debugger = notebook.begin("%debug")
    notebook.answer("p i, delay")
    notebook.answer("q")
    assert "(20, 0.0)" in debugger.finish().stdout


def test_a_failed_run_of_the_pool_in_a_notebook(notebook: Notebook) -> None:
    """The same, with the call that continues it."""
    cell = notebook.execute("""
        with durably.Durably("pool.db") as pool:
            run = pool.trigger(crawl, Crawl())
            pool.wait(run)
    """)
    run_id = notebook.ok("print(run.id)").stdout.strip()
    assert cell.traceback == SHOWN.replace("AGAIN", f"start it again with retry({run_id!r})")


def test_a_stop_in_a_notebook(notebook: Notebook) -> None:
    """One line says where it was, what is kept, and how to go on."""
    notebook.ok("def printing(i): print('page', i); time.sleep(i and 600)")
    notebook.ok("""
        @durably.job("slow")
        def slow(step):
            for i in range(2):
                step.run(f"page-{i}", printing, i)
    """)
    cell = notebook.begin("app.run(slow, key='s')").wait_for("page 1")
    notebook.interrupt()
    assert cell.finish().traceback == (
        "KeyboardInterrupt: stopped in step 'page-1'; 1 completed step is kept. "
        "Run this cell again to go on."
    )


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            "app.run(crawl, 5)",
            "ValidationError: the payload of crawl: $: expected Crawl, found int",
        ),
        ("app.wait('NO')", "NotFoundError: there is no run 'NO' in this database"),
        ("durably.Retry(attempts=0)", "ValidationError: Retry.attempts must be an int of at least"),
        ("durably.job('a', 5)", "TypeError: "),
    ],
)
def test_an_error_of_durably_in_a_notebook(notebook: Notebook, source: str, error: str) -> None:
    """IPython's own traceback, which ends at the line of the cell."""
    cell = notebook.execute(source)
    assert cell.traceback.splitlines()[-1].startswith(error)
    assert source in cell.traceback
    assert "site-packages" not in cell.traceback
    assert "File" not in cell.traceback


def test_a_step_of_a_session_that_fails_in_a_notebook(notebook: Notebook) -> None:
    """IPython's own traceback shows the cell and the function."""
    notebook.ok("step = durably.session('churn', 'churn.db')")
    cell = notebook.execute("step.run('a', fetch, 20, 0.0)")
    assert "step.run('a', fetch, 20, 0.0)" in cell.traceback
    assert "return 1 // (i - 20)" in cell.traceback
    assert "File" not in cell.traceback
    notebook.ok("step.close()")
