"""The command line: what each verb prints, for people and for programs, and how it exits."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from clikit import command, objects, printed, refused
from databases import open_database

import durably

HOSTILE = "\x1b[2J\u202e<b>\n\r"


@durably.job("import")
def imports(step: durably.StepContext, payload: dict) -> int:
    step.run("read", lambda: "rows")
    for number in range(8):
        step.run(f"batch-{number}", lambda: None)
    return step.run("last", divided, payload["by"])


def divided(by: int) -> int:
    return 1 // by


@durably.job
def labels_them(step: durably.StepContext, count: int) -> int:
    results = step.map("label", label, range(count), key=lambda item: f"doc-{item}")
    return len(results)


def label(item: int) -> int:
    if item % 10 == 3:
        raise ValueError(f"cannot parse {item}{HOSTILE}")
    return item


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file with a completed, two failed, a cancelled, and a pending run; read by all tests."""
    path = tmp_path_factory.mktemp("cli") / "x.db"
    with durably.Durably(path, jobs=[imports, labels_them], raise_failed=False) as app:
        app.trigger(imports, {"by": 1}, idempotency_key="good", labels={"team": "a"})
        app.trigger(imports, {"by": 0, HOSTILE: 1}, idempotency_key="bad", labels={"team": "b"})
        app.trigger(labels_them, 50, idempotency_key="map")
        app.run_until_idle()
    app = durably.Durably(path, jobs=[imports])
    app.cancel(app.trigger(imports, {"by": 2}, idempotency_key="gone"))
    app.trigger(imports, {"by": 3}, idempotency_key=HOSTILE)
    app.close()
    return path


def test_ls(path: Path) -> None:
    """The runs, newest first, as plain columns; filters; JSON and CSV for programs."""
    lines = printed(path, "ls").splitlines()
    assert lines[0].split() == ["RUN", "STATUS", "JOB", "KEY", "STARTED", "TOOK", "STEPS", "NOTE"]
    assert [line.split()[1:3] for line in lines[1:]] == [
        ["pending", "import"],
        ["cancelled", "import"],
        ["failed", "labels_them"],
        ["failed", "import"],
        ["completed", "import"],
    ]
    assert lines[4].endswith("  9  ZeroDivisionError: integer division or modulo by zero")
    assert r"\x1b[2J\u202e<b>\n\r" in lines[1]

    runs = objects(path, "ls")
    assert [run["id"][-8:] for run in runs] == [line.split()[0] for line in lines[1:]]
    keys = [HOSTILE, "gone", "map", "bad", "good"]
    assert [run["key"] for run in runs] == [run["idempotency_key"] for run in runs] == keys
    assert runs[-1] | {"status": "completed", "output": 1, "attempt": 1} == runs[-1]
    assert runs[3]["error"]["type"] == "ZeroDivisionError"

    def listed(*options: str) -> list[str]:
        return [run["key"] for run in objects(path, "ls", *options)]

    assert listed("--status", "failed", "--since", "yesterday") == ["map", "bad"]
    assert listed("--status", "failed", "--status", "cancelled", "--job", "import") == [
        "gone",
        "bad",
    ]
    assert listed("--label", "team=a") == ["good"]
    assert listed("--limit", "2") == keys[:2]
    assert listed("--limit", "0", "--since", "1h") == keys
    assert listed("--since", "2999-01-01") == []
    assert printed(path, "ls", "--since", "2999-01-01T10:00") == ""
    rows = list(csv.DictReader(io.StringIO(printed(path, "ls", "--csv"))))
    assert [row["key"] for row in rows] == keys
    assert json.loads(rows[-1]["labels"]) == {"team": "a"}


def test_show(path: Path) -> None:
    """What a run is, which of its steps failed and where, what kinds of items, and what to do."""
    shown = printed(path, "show", "bad")
    assert shown.splitlines()[1:3] == ["  status    failed, attempt 1", "  key       bad"]
    assert "steps     9 completed, 1 failed" in shown
    assert "… 4 more" in shown
    assert "✗ last" in shown
    assert "in divided\n        return 1 // by\n" in shown
    assert "go on from step 'last'" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    short = objects(path, "ls", "--status", "failed")[1]["id"][-8:]
    assert f"durably retry {short} --db {path}" in shown
    assert printed(path, "show", short.lower()) == shown

    shown = printed(path, "show", "map")
    assert "items     5 failed in label" in shown
    assert r" ValueError: cannot parse 3\x1b[2J" in shown
    assert "(doc-3, doc-13, doc-23, …)" in shown
    assert shown.count("in label\n") == 2  # the frames of one failure stand for those of its kind

    (found,) = objects(path, "show", "good")
    assert [step["name"] for step in found["steps"]][:2] == ["read", "batch-0"]
    assert found["payload"] == {"by": 1}


def test_steps_and_items(path: Path) -> None:
    """The parts of a run, in their order, as tables, JSON objects and CSV."""
    lines = printed(path, "steps", "bad").splitlines()
    assert lines[0].split() == ["#", "STATUS", "STEP", "STARTED", "TOOK", "ATTEMPTS", "RESULT"]
    assert lines[1].endswith("'rows'")
    assert lines[-1].endswith("ZeroDivisionError: integer division or modulo by zero")
    steps = objects(path, "steps", "good")
    assert [(step["name"], step["index"], step["output"]) for step in steps[::9]] == [
        ("read", 0, "rows"),
        ("last", 9, 1),
    ]
    (step,) = objects(path, "steps", "map")
    assert step["items"] == {"done": 45, "failed": 5, "reused": 0, "total": 50}

    assert len(printed(path, "items", "map").splitlines()) == 51
    failed = printed(path, "items", "map", "label", "--failed", "--limit", "2").splitlines()
    assert [line.split()[:3] for line in failed[1:]] == [
        ["3", "failed", "doc-3"],
        ["13", "failed", "doc-13"],
    ]
    assert r"ValueError: cannot parse 3\x1b[2J\u202e<b>\n\r" in failed[1]
    items = objects(path, "items", "map", "--limit", "0")
    assert [item["output"] for item in items if item["status"] == "completed"] == [
        item for item in range(50) if item % 10 != 3
    ]
    rows = [*csv.DictReader(io.StringIO(printed(path, "items", "map", "--csv", "--failed")))]
    assert [row["key"] for row in rows] == [f"doc-{item}" for item in range(3, 50, 10)]
    assert json.loads(rows[0]["error"])["message"] == f"cannot parse 3{HOSTILE}"
    assert refused(path, "items", "map", "odd") == "the run has no map 'odd'; it has label"
    assert "no step of it is a map" in refused(path, "items", "good")
    assert printed(path, "logs", "good") == ""


def test_changes(path: Path, tmp_path: Path) -> None:
    """Runs are retried, cancelled and deleted; what is rejected has status 1."""
    copy = tmp_path / "x.db"
    shutil.copy(path, copy)

    def states() -> dict[str, str]:
        return {run["key"]: run["status"] for run in objects(copy, "ls")}

    assert printed(copy, "retry", "bad").startswith("pending again, 9 completed steps kept.")
    assert "is pending and cannot be retried" in refused(copy, "retry", "bad", status=1)
    assert printed(copy, "cancel", "bad", "--quiet") == ""
    assert printed(copy, "retry", "--failed", "--since", "1h", "--job", "labels_them")
    assert printed(copy, "retry", "--failed") == ""  # no more
    result = command(copy, "cancel", "map", "good", HOSTILE)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "labels_them map: cancelled.",
        r"import \x1b[2J\u202e<b>\n\r: cancelled.",
    ]
    assert "is completed and cannot be cancelled" in result.stderr
    assert states() == {
        "good": "completed",
        "bad": "cancelled",
        "map": "cancelled",
        "gone": "cancelled",
        HOSTILE: "cancelled",
    }
    assert printed(copy, "rm", "good", "gone").count("deleted.") == 2
    assert "there is no run 'good'" in refused(copy, "rm", "good")
    for args in (
        ["retry"],
        ["retry", "bad", "--failed"],
        ["retry", "bad", "--since", "1d"],
        ["rm"],
    ):
        refused(copy, *args)


def test_purge(path: Path, tmp_path: Path) -> None:
    """It says what it would delete, deletes that, and is silent where there is no terminal."""
    copy = tmp_path / "x.db"
    shutil.copy(path, copy)

    def would(*options: str) -> str:
        said = printed(copy, "purge", "--older-than", "0s", "--dry-run", *options)
        return said.partition(" (")[0]

    assert printed(copy, "purge", "--older-than", "1h", "--dry-run") == (
        "would delete 0 runs (0 bytes)\n"
    )
    assert would() == "would delete 4 runs"
    assert would("--keep-failed") == "would delete 2 runs"
    assert printed(copy, "purge", "--older-than", "0s", "--keep-failed") == ""
    assert [run["status"] for run in objects(copy, "ls")] == ["pending", "failed", "failed"]
    assert printed(copy, "purge", "--older-than", "2999-01-01") == ""
    assert [run["status"] for run in objects(copy, "ls")] == ["pending"]


def test_watch(path: Path) -> None:
    """Without a terminal a line for each change, and the status is how the run has ended."""
    assert "labels_them map failed: " in printed(path, "watch", "map", status=1)
    assert printed(path, "watch", "good").endswith(" import good completed\n")
    assert "for a terminal" in refused(path, "ls", "--watch")


def test_export(path: Path, tmp_path: Path) -> None:
    """A page that needs nothing else, in which nothing that is stored is acted on."""
    page = printed(path, "export", "map")
    assert page.startswith("<!DOCTYPE html>")
    assert "default-src 'none'" in page
    for text in ("labels_them map", "Failed items of label", "doc-43", "Attempts", "<svg "):
        assert text in page
    assert not re.search(r"<b>\n|<script|javascript:|\x1b|\u202e| (src|href)=", page)
    file = tmp_path / "page.html"
    assert printed(path, "export", "map", "--html", str(file)) == ""
    passing = re.compile(r">\d+ (s|min) ago<|Made by durably export.*")
    assert passing.sub("", file.read_text(encoding="utf-8")) == passing.sub("", page)
    assert "cannot be written" in refused(path, "export", "map", "--html", str(tmp_path))


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shells complete verbs, keys and the ends of ids."""
    monkeypatch.setenv("DURABLY_DB", str(path))
    newest = objects(path, "ls", "--limit", "1")[0]["id"][-8:]

    def completed(line: str) -> str:
        env = {"_DURABLY_COMPLETE": f"{name}_complete", "COMP_WORDS": line}
        env["COMP_CWORD"] = line.rpartition(" ")[2] if name == "fish" else "2"
        return command(None, **env).stdout

    assert "gone" in completed("durably show go")
    assert newest in completed(f"durably show {newest[:5]}")
    script = command(None, _DURABLY_COMPLETE=f"{name}_source")
    assert "_DURABLY_COMPLETE" in script.stdout
    monkeypatch.setenv("DURABLY_DB", str(path.with_name("missing.db")))
    assert "gone" not in completed("durably show go")


def test_which_run_is_meant(path: Path, tmp_path: Path) -> None:
    """A key, an id or its end; what several runs match is listed; what none matches is said."""
    newest = objects(path, "ls", "--limit", "1")[0]["id"]
    assert newest in printed(path, "show", newest)
    assert refused(path, "show", "nothing") == (
        f"there is no run 'nothing' in {str(path)!r}; durably ls --db {path} lists the runs"
    )
    copy = tmp_path / "x.db"
    shutil.copy(path, copy)
    db = open_database(copy)
    # Two runs of one millisecond may share the first 22 characters of their ids.
    db.execute(
        "UPDATE durably_runs SET id = substr(id, 1, 20) || printf('%02d', run) || 'ZZZZ'"
        " WHERE status = 'failed'"
    )
    db.execute("UPDATE durably_runs SET idempotency_key = 'map' WHERE status = 'completed'")
    db.close()
    said = refused(copy, "show", "zzzz").splitlines()
    assert said[0] == "'zzzz' is the end of the id of several runs; name one by its id:"
    assert [line.split()[1:] for line in said[1:]] == [
        ["failed", "labels_them", "map"],
        ["failed", "import", "bad"],
    ]
    said = refused(copy, "show", "map").splitlines()
    assert said[0] == "'map' is the key of several runs; name one by its id:"
    assert [line.split()[1] for line in said[1:]] == ["failed", "completed"]


@pytest.mark.parametrize("length", [1, 5, 7, 8, 9, 20, 26])
def test_a_run_is_found_by_any_length_of_the_end_of_its_id(path: Path, length: int) -> None:
    """The index has the last eight characters, and a longer end must fit as a whole."""
    ids = [run["id"] for run in objects(path, "ls")]
    end = ids[0][-length:]
    same = [each for each in ids if each.endswith(end)]
    if len(same) == 1:
        assert same[0] in printed(path, "show", end.lower())
    else:
        assert refused(path, "show", end).count("\n  ") == len(same)
    if length > 8:
        other = ("0" if end[0] != "0" else "1") + end[1:]
        assert refused(path, "show", other).startswith(f"there is no run {other!r}")


def test_the_name_of_a_job_or_a_session_is_no_run(path: Path, tmp_path: Path) -> None:
    """Its newest runs are listed."""
    copy = tmp_path / "x.db"
    shutil.copy(path, copy)
    with durably.session("churn", copy) as step:
        step.run("one", int)
    said = refused(copy, "show", "churn").splitlines()
    assert said[0] == "'churn' is a session and not a run; name one by its id:"
    assert [line.split()[1:] for line in said[1:]] == [["completed", "churn"]]
    with suppress(ZeroDivisionError), durably.session("fails", copy) as step:
        step.run("two", divided, 0)
    (failed,) = objects(copy, "ls", "--job", "fails")
    shown = printed(copy, "show", failed["id"])
    assert shown.endswith("\n  start its program again  go on from step 'two'\n")
    assert printed(copy, "retry", failed["id"]) == (
        "pending again, 0 completed steps kept. It is executed by the program that opens the "
        "session 'fails'.\n"
    )
    next_ones = printed(copy, "show", failed["id"]).splitlines()[-2:]
    assert re.fullmatch(r"  start its program again +go on from step 'two'", next_ones[0])
    assert next_ones[1].startswith("  durably cancel")
    ids = [run["id"] for run in objects(copy, "ls", "--job", "import")]
    said = refused(copy, "retry", "import").splitlines()
    assert said[0] == "'import' is a job and not a run; name one by its id:"
    assert [line.split()[0] for line in said[1:]] == ids


def test_wrong_usage_is_one_sentence(path: Path) -> None:
    """It says what is wrong and which help says more, with status 2."""
    assert refused(path, "sho") == (
        "no such command 'sho'. Did you mean 'show'? (durably --help says more)"
    )
    assert refused(path, "zzz") == "no such command 'zzz' (durably --help says more)"
    nowhere = path.parent / "nowhere"
    assert refused(nowhere / "x.db", "ls") == f"the folder '{nowhere}' does not exist"
    for args, said in (
        (["ls", "--since", "soon"], "'soon' is no time"),
        (["ls", "--status", "odd"], "'odd' is not one of"),
        (["ls", "--label", "x"], "'x' has no '='"),
        (["ls", "--colour"], "--colour"),
        (["show"], "missing argument 'RUN'"),
    ):
        sentence = refused(path, *args)
        assert said in sentence
        assert "\n" not in sentence
    for args, right in (
        (["--db", "a b.db", "ls"], "durably ls --db 'a b.db'"),
        (["--db=x.db", "-q", "show", "--json", "key"], "durably show --db=x.db -q --json key"),
        (["--db", "x.db"], "durably ls --db x.db"),
        (["--since", "24h", "ls"], "durably ls --since 24h"),
    ):
        assert refused(None, *args) == f"options stand behind the verb: write {right}"
    for option in ("--odd", "--fresh"):
        assert refused(None, option, "ls").startswith("no such option")


@pytest.mark.parametrize(
    ("args", "of"), [([], "durably"), (["help"], "durably"), (["help", "ls"], "durably ls")]
)
def test_help_is_printed_where_it_is_looked_for(args: list[str], of: str) -> None:
    """It is what ``--help`` prints."""
    helped = printed(None, *args)
    assert helped.startswith(f"Usage: {of} [OPTIONS]")
    assert helped == printed(None, *args[1:], "--help")


def test_an_error_is_shown_at_length_only_when_asked(path: Path) -> None:
    """``--traceback`` shows where it was raised."""
    result = command(path, "show", "nothing", "--traceback")
    assert result.exit_code == 2
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert result.stderr.splitlines()[-1].startswith("durably: there is no run 'nothing'")
