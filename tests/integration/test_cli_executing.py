"""``durably run`` and ``durably work``: which run is executed, how it ends, what a signal does."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from children import DEADLINE_S, ENVIRONMENT, PROGRAMS, execute
from clikit import command, objects, printed, process, refused
from databases import open_database

import durably
from durably.cli.changing import file_of

NIGHTLY = f"{PROGRAMS / 'nightly.py'}:nightly"
DIVIDED = "ZeroDivisionError: division by zero"
Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture(autouse=True)
def imports_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a command imports is gone after it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        if "nightly" in name or "script" in name:
            del sys.modules[name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


def test_run(path: Path) -> None:
    """It makes the file, executes the run once, and is silent unless the output is asked for."""
    assert printed(path, "run", NIGHTLY, '{"path": "a"}', "--key", "one", "--label", "by=cli") == ""
    (run,) = objects(path, "ls")
    assert run | {"status": "completed", "key": "one", "labels": {"by": "cli"}} == run
    assert run["payload"] == {"path": "a", "day": None, "count": 3, "tags": []}
    out = printed(path, "run", NIGHTLY, '{"path": "a"}', "--key", "one", "--print")
    assert json.loads(out) == {"path": "a", "day": "None", "tags": []}
    assert objects(path, "ls") == [run]
    printed(path, "run", NIGHTLY, '{"path": "a"}', "--key", "one", "--fresh")
    assert [each["key"] for each in objects(path, "ls")] == ["one", None]
    assert "INFO    imported rows=3" in printed(path, "logs", "one")
    (line,) = objects(path, "logs", "one", "--follow")
    assert (line["message"], line["data"]) == ("imported", {"rows": 3})


def test_a_failed_run(path: Path) -> None:
    """Status 1, and on stderr which run, where it failed, what is kept, and the next commands."""
    result = command(path, "run", NIGHTLY, "--set", "path=bad", "--key", "night")
    assert (result.exit_code, result.stdout) == (1, "")
    (run,) = objects(path, "ls")
    name = run["id"][-8:]
    failed = "nightly-import night failed in step 'last' after 3 completed steps: " + DIVIDED
    commands = [
        f"  durably show {name} --db {path}   where and why",
        f"  durably retry {name} --db {path}  go on with it, once the cause is fixed",
    ]
    assert result.stderr.splitlines() == [failed, *commands]
    result = command(path, "run", NIGHTLY, "--set", "path=bad", "--key", "night", "--traceback")
    shown = result.stderr.splitlines()
    assert (shown[0], shown[-2:]) == (failed, commands)
    assert shown[1].startswith(f'  File "{PROGRAMS}/nightly.py", line')
    # Retried, it is executed by who works; and fails again.
    said = printed(path, "retry", "night")
    assert said == (
        "pending again, 3 completed steps kept. It is executed by the next process that knows "
        "'nightly-import'.\n"
        f"no process executes runs now:  durably work {PROGRAMS}/nightly.py --until-idle "
        f"--db {path}\n"
    )
    result = command(path, "work", str(PROGRAMS / "nightly.py"), "--until-idle")
    assert (result.exit_code, result.stdout) == (1, "")
    assert [(run["status"], run["attempt"]) for run in objects(path, "ls")] == [("failed", 3)]
    attempts = objects(path, "attempts", "night")
    assert [(each["attempt"], each["outcome"], each["pid"]) for each in attempts] == [
        (1, "failed", os.getpid()),
        (2, "failed", os.getpid()),
        (3, "failed", os.getpid()),
    ]
    lines = printed(path, "attempts", "night").splitlines()
    titles = [
        "ATTEMPT",
        "OUTCOME",
        "STARTED",
        "TOOK",
        "STEPS",
        "REUSED",
        "PROCESS",
        "HOST",
        "ERROR",
    ]
    assert lines[0].split() == titles
    assert [line.endswith("ZeroDivisionError: division by zero") for line in lines[1:]] == [
        True
    ] * 3
    assert "1 failed, " in printed(path, "show", "night")
    assert len(printed(path, "attempts", "night", "--csv").splitlines()) == 4


def test_failures_of_a_worker(path: Path) -> None:
    """A line and the next commands for each, as a process prints it; frames where asked for."""
    command(path, "run", NIGHTLY, "--set", "path=bad", "--key", "night")
    (run,) = objects(path, "ls")
    name = run["id"][-8:]
    named = f"…{name[-4:]} nightly-import night"
    failed = f"{named} failed in step 'last' after 3 completed steps: {DIVIDED}"
    commands = [
        f"  durably show {name}   where and why",
        f"  durably retry {name}  go on with it, once the cause is fixed",
    ]
    for options in ((), ("--traceback",), ("-v",)):
        assert "no process executes runs now" in printed(path, "retry", "night")
        work = "work", PROGRAMS / "nightly.py", "--until-idle", *options
        with process(*work, DURABLY_DB=str(path)) as worker:
            out, err = worker.communicate(timeout=DEADLINE_S)
        assert (worker.returncode, out) == (1, "")
        lines = err.splitlines()
        assert lines[-2:] == commands
        if "-v" in options:
            assert "resumed" in lines[0]
            assert lines[-3].endswith(f" ERROR {failed}")
        else:
            assert lines[0] == failed
        assert ("Traceback (most recent call last):" in lines) == ("--traceback" in options)
        assert "retry(" not in err
    # The time since the first attempt is no part of what the last one took.
    db = open_database(path)
    db.execute("""UPDATE durably_runs SET created_at_us = created_at_us - 7200000000,
                      started_at_us = started_at_us - 7200000000""")
    db.close()
    (run,) = objects(path, "ls")
    assert run["duration"] > 7200
    shown = printed(path, "ls").splitlines()[1]
    (started,) = [line for line in printed(path, "show", "night").splitlines() if "took" in line]
    for line in (shown, started):
        assert re.search(r"\d s\b", line)
        assert "2 h" not in line


def test_an_output_is_printed_that_json_does_not_know_or_that_is_a_file(
    path: Path, tmp_path: Path
) -> None:
    """It is printed as the other commands show it."""
    source = "import durably\n\n@durably.job\ndef makes(step, n: int):\n    return (n, 'x' * n)\n"
    (tmp_path / "makes.py").write_text(source)
    for n in (1, 5 * 2**20):
        out = printed(path, "run", f"{tmp_path / 'makes.py'}:makes", str(n), "--print")
        assert json.loads(out) == [n, "x" * n]


def test_payloads(path: Path, tmp_path: Path) -> None:
    """JSON, a file, stdin, or fields by their types; what does not fit is one sentence."""
    file = tmp_path / "payload.json"
    file.write_text('{"path": "from a file"}')

    def output(*args: str, stdin: str | None = None) -> object:
        result = command(path, "run", NIGHTLY, *args, "--print", stdin=stdin)
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)

    assert output(f"@{file}") == {"path": "from a file", "day": "None", "tags": []}
    assert output("-", stdin='{"path": "x", "day": "2026-11-28"}') == {
        "path": "x",
        "day": "2026-11-28",
        "tags": [],
    }
    sets = ["path=12", "day=2026-11-27", "count=1", 'tags=["a", "b"]']
    given = [word for each in sets for word in ("--set", each)]
    assert output(*given) == {"path": "12", "day": "2026-11-27", "tags": ["a", "b"]}
    greets = f"{PROGRAMS / 'nightly.py'}:greets"
    assert printed(path, "run", greets, "you", "--print") == '"hello you"\n'
    assert printed(path, "run", greets, '"12"', "--print") == '"hello 12"\n'
    for args, said in (
        (["{"], "the payload is not JSON"),
        (['{"path": 1}'], "$.path: expected str"),
        (["--set", "pth=1"], "$.pth: unknown key"),
        (["--set", "pth"], "has no '='"),
        (["{}", "--set", "path=1"], "not by both"),
        (["@/no/such/file"], "'/no/such/file' cannot be read: No such file or directory"),
        (['{"path": "a"}', "--key", "{day}"], "'{day}' in the key means nothing"),
    ):
        sentence = refused(path, "run", NIGHTLY, *args)
        assert said in sentence
        assert "\n" not in sentence


def test_keys(path: Path, tmp_path: Path) -> None:
    """A day, an hour and the content of a file are filled in."""
    file = tmp_path / "data.csv"
    file.write_bytes(b"1,2")
    key = f"{{date}} {{hour}} {{sha256:{file}}}"
    before = datetime.now()
    printed(path, "run", NIGHTLY, "--set", "path=x", "--key", key)
    digest = hashlib.sha256(b"1,2").hexdigest()
    possible = {f"{now:%Y-%m-%d} {now:%Y-%m-%dT%H} {digest}" for now in (before, datetime.now())}
    assert objects(path, "ls")[0]["key"] in possible


def test_targets(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job is found by its variable or its name, in a file or a module; or why not is said."""
    by_name = f"{PROGRAMS / 'nightly.py'}:nightly-import"
    printed(path, "run", by_name, "--set", "path=x")
    monkeypatch.chdir(PROGRAMS)
    printed(path, "run", "nightly:nightly", "--set", "path=y")
    assert [run["job_name"] for run in objects(path, "ls")] == ["nightly-import"] * 2
    monkeypatch.chdir(tmp_path)

    def script(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return name

    for target, said in (
        (f"{PROGRAMS / 'nightly.py'}:x", "its jobs are: nightly, greets, waits, sleeps"),
        (str(PROGRAMS / "nightly.py"), "has several jobs; write"),
        ("nothing.py:x", "there is no file 'nothing.py'"),
        ("no_such_module:x", "there is no module 'no_such_module'"),
        ("-x:y", "is no module and no file"),
        (script("script_a.py", "import durably"), "there is no job in 'script_a.py'"),
        (script("script_b.py", "1 / 0"), "ZeroDivisionError: division by zero, line 1 of "),
        (script("script_c.py", "def"), "SyntaxError: "),
        (script("script_d.py", "raise SystemExit(3)"), "it ends the program"),
    ):
        sentence = refused(path, "run", "--", target)
        assert said in sentence
        assert "\n" not in sentence


def test_a_script_without_a_guard(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would execute its own runs where it is imported: a sentence says how to guard it."""
    monkeypatch.setenv("NIGHTLY_IS_UNGUARDED", "1")
    monkeypatch.setenv("DURABLY_DB", str(path.with_name("other.db")))
    said = refused(path, "run", NIGHTLY)
    assert "it executes runs where it is imported for its jobs" in said


def test_work_until_idle(path: Path) -> None:
    """It executes what is pending of its jobs, is silent, and says by its status what is left."""
    assert execute("triggers_nightly", path).returncode == 0
    assert printed(path, "work", NIGHTLY, "--until-idle") == ""
    assert [run["status"] for run in objects(path, "ls")] == ["pending", "completed"]
    assert printed(path, "work", str(PROGRAMS / "nightly.py"), "--until-idle") == ""
    assert [run["status"] for run in objects(path, "ls")] == ["completed", "completed"]

    @durably.job("greets")
    def holds(step: durably.StepContext, name: str) -> str:
        result = command(path, "work", str(PROGRAMS / "nightly.py"), "--until-idle")
        assert (result.exit_code, result.stdout, result.stderr) == (75, "", "")
        return name

    # What has its concurrency key is executed elsewhere.
    app = durably.Durably(path, jobs=[holds])
    for name in ("a", "b"):
        app.trigger(holds, name, concurrency_key="one at a time")
    assert app.process_one()
    app.close()


@pytest.mark.parametrize("verb", ["run", "work"])
def test_a_signal_stops_at_the_next_step(
    path: Path, tmp_path: Path, verb: str, eventually: Eventually
) -> None:
    """The run goes back with its steps; one line says so; the status is that of the signal.

    Meanwhile another command says where it is executed, and skips it.
    """
    target = f"{PROGRAMS / 'nightly.py'}:waits"
    args = [str(tmp_path), "--key", "one"] if verb == "run" else []
    if verb == "work":
        app = durably.Durably(path, jobs=[durably.Job("waits", lambda step, folder: 0, input=str)])
        app.trigger("waits", str(tmp_path), idempotency_key="one")
        app.close()
    with process(verb, target, *args, "--db", path) as child:
        eventually((tmp_path / "begun-0").exists)
        if verb == "run":
            result = command(
                path, "run", target, str(tmp_path), "--key", "one", "--if-running=skip"
            )
            assert (result.exit_code, result.stdout) == (75, "")
            assert result.stderr.startswith("waits one is running since ")
            assert result.stderr.endswith(f" in process {child.pid}; skipped.\n")
            assert f"process   {child.pid}" in printed(path, "show", "one")
        child.send_signal(signal.SIGTERM)
        if verb == "work":
            # The step must not end before the stop has begun, which the other thread says.
            assert child.stderr is not None
            assert child.stderr.readline().startswith("Stopping after step 'wait-0'; press")
        (tmp_path / "go-0").touch()
        out, err = child.communicate(timeout=DEADLINE_S)
    assert (child.returncode, out) == (143, "")
    assert err == "durably: stopped by SIGTERM; put back: waits one (1 completed step is kept)\n"
    (run,) = objects(path, "ls")
    assert (run["status"], run["completed_steps"]) == ("pending", 1)
    assert not (tmp_path / "begun-1").exists()


def test_a_second_signal_leaves_at_once(path: Path, tmp_path: Path, eventually: Eventually) -> None:
    """The process ends in the middle of its step; the next one finds it dead and goes on."""
    target = f"{PROGRAMS / 'nightly.py'}:waits"
    with process("run", target, tmp_path, "--key", "one", "--db", path) as child:
        eventually((tmp_path / "begun-0").exists)
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGINT)

        def ended() -> bool:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)  # two at once may be one
            return child.poll() is not None

        eventually(ended)
        assert child.returncode == -signal.SIGINT
    (tmp_path / "go").touch()
    result = command(path, "run", target, str(tmp_path), "--key", "one")
    assert (result.exit_code, result.stdout) == (0, "")
    assert objects(path, "ls")[0]["status"] == "completed"
    assert [each["outcome"] for each in objects(path, "attempts", "one")] == ["died", "completed"]


def test_the_script_to_execute_is_named_if_it_is_one(path: Path, tmp_path: Path) -> None:
    """A module of a package is not imported by its file, and one that is gone is not there."""
    script = tmp_path / "jobs" / "script.py"
    script.parent.mkdir()
    script.write_text("import durably\nfails = durably.Job('fails', lambda step: 1 / 0)\n")
    assert command(path, "run", str(script)).exit_code == 1
    with durably.Durably(path) as app:
        (run,) = app.get_runs()
    assert file_of(run) == str(script)
    (script.parent / "__init__.py").touch()
    assert file_of(run) == "FILE"
    shutil.rmtree(script.parent)
    assert file_of(run) == "FILE"


@pytest.mark.filterwarnings("default::durably.PayloadChangedWarning")
def test_what_python_would_call_is_said_as_a_command(
    path: Path, tmp_path: Path, eventually: Eventually
) -> None:
    """An error of a command names no arguments and methods of the engine."""
    assert printed(path, "run", NIGHTLY, "--set", "path=a", "--key", "k") == ""
    result = command(path, "run", NIGHTLY, "--set", "path=b", "--key", "k")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        "durably: 'k' was started with another payload ($.path). Its stored result is returned; "
        "use another key, or --fresh.\n"
    )
    again = ["run", f"{PROGRAMS / 'nightly.py'}:waits", str(tmp_path), "--key", "one"]
    with process(*again, "--db", path) as child:
        eventually((tmp_path / "begun-0").exists)
        said = refused(path, *again, "--if-running=error", status=1)
        assert said.endswith("; --if-running wait waits for that, --if-running skip ends at once")
        name = objects(path, "ls", "--status", "running")[0]["id"][-8:]
        printed(path, "cancel", name)
        (tmp_path / "go").touch()
        out, err = child.communicate(timeout=DEADLINE_S)
    assert (child.returncode, out) == (1, "")
    assert err.endswith(
        f" was cancelled. Its checkpoints are kept: durably retry {name} --db {path} continues "
        "from them.\n"
    )


def test_a_timeout(path: Path) -> None:
    """The run stops, its steps are kept, and the status says that work is left."""
    target = f"{PROGRAMS / 'nightly.py'}:sleeps"
    said = refused(path, "run", target, "--timeout", "0.2", status=75)
    assert said.endswith(
        "was stopped after 0.2 s: 1 completed step is kept; start it again to go on"
    )
    assert objects(path, "ls")[0]["status"] == "pending"


def test_without_click_a_line_says_how_to_install_it(tmp_path: Path) -> None:
    """``python -m durably`` and the console script print it, and exit with status 2."""
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('No click', name='click')")
    env = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}"}
    for start in (["-m", "durably"], ["-c", "from durably.cli import main; main()"]):
        done = subprocess.run(
            [sys.executable, *start, "ls"], env=env, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "durably: the command line needs click: pip install 'durably[cli]'\n"
        )
