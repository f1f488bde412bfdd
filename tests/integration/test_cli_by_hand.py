"""``durably redo``, ``fork`` and ``set``, and what points to them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clikit import command, objects, printed, refused
from held import HeldJob
from invariants import check

import durably
from durably.cli.shell import Shell

executed: list[str] = []


def note(name: str, value: Any) -> Any:
    executed.append(name)
    if value == "bad" or value == ["unread"]:
        raise ValueError(f"bad row {value!r}")
    return value


@durably.job
def nightly(step: durably.StepContext, rows: list[Any]) -> list[Any]:
    rows = step.run("read it", note, "read it", rows)
    results = step.map("parse", lambda row: note(f"parse {row}", row), rows, key=str)
    return [*results, step.run("last", note, "last", rows[-1])]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A file in which a run has failed at an item of a map."""
    path = tmp_path / "runs.db"
    executed.clear()
    with pytest.raises(durably.RunFailedError):
        durably.run(nightly, [1, "bad"], db=path, key="k")
    executed.clear()
    yield path
    assert check(path) == []


def go_on(path: Path, key: str = "k") -> list[str]:
    """Continue the run with that key; return what was executed."""
    executed.clear()
    durably.run(
        nightly, json.loads(printed(path, "show", key, "--json"))["payload"], db=path, key=key
    )
    return executed


def test_what_has_failed_is_set_and_what_it_depends_on_is_redone(path: Path) -> None:
    """Each says what has become of the run, and what to do next."""
    [run] = objects(path, "ls")
    end = run["id"][-8:]
    assert printed(path, "set", "k", "parse[bad]", "2") == (
        f"set 'parse[bad]'.\nto go on with the run:  durably retry {end} --db {path}\n"
    )
    assert objects(path, "items", "k", "parse")[1]["is_manual"] is True
    printed(path, "redo", "k", "--only", "parse[1]")
    with pytest.raises(durably.RunFailedError):
        go_on(path)
    assert executed == ["parse 1", "last"]
    said = printed(path, "set", "k", "last", '"by hand"')
    assert said.startswith("set 'last'.\n")
    assert go_on(path) == []
    [done] = objects(path, "ls")
    assert done["output"] == [1, 2, "by hand"]
    assert printed(path, "set", "k", "last", "4").endswith(
        f"to execute what uses it again:  durably redo {end} --from STEP --db {path}\n"
    )
    assert printed(path, "redo", "k", "--from", "read it") == (
        "pending again, 0 completed steps kept. It is executed by the next process that knows "
        f"'nightly'.\nno process executes runs now:  durably work FILE --until-idle --db {path}\n"
    )
    printed(path, "redo", "k", "-q")
    with pytest.raises(durably.RunFailedError):
        go_on(path)
    assert executed == ["read it", "parse 1", "parse bad"]


def test_what_is_set_in_a_session_is_used_by_its_program(tmp_path: Path) -> None:
    """Its program goes on; nothing says that all results be forgotten."""
    path = tmp_path / "loop.db"

    def loop() -> list[int]:
        return list(durably.map(int, ["1", "bad"], name="loop", db=path, key=str))

    with pytest.raises(durably.ItemsFailedError):
        loop()
    assert printed(path, "set", "loop", "loop[bad]", "2") == (
        "set 'loop[bad]'.\nto go on with the run:  start its program again\n"
    )
    assert loop() == [1, 2]
    assert printed(path, "set", "loop", "loop[1]", "3") == "set 'loop[1]'.\n"
    assert loop() == [3, 2]


def test_a_new_run_begins_with_copies(path: Path) -> None:
    """Its payload is JSON, checked by the job when it is executed."""
    before = objects(path, "steps", "k")
    said = printed(path, "fork", "k", "[3, 4]", "--from", "read it", "--key", "other")
    forked, _ = objects(path, "ls")
    assert said.startswith(
        f"{forked['id'][-8:]} is a new run of nightly k with 0 completed steps. It is executed by "
        "the next process that knows 'nightly'.\n"
    )
    assert forked["payload"] == [3, 4]
    assert go_on(path, "other") == ["read it", "parse 3", "parse 4", "last"]
    assert forked["forked_from"] == objects(path, "ls", "--status", "failed")[0]["id"]
    assert objects(path, "steps", "k") == before
    assert f"forked    {forked['forked_from']}" in printed(path, "show", "other")
    assert "with 1 completed step." in printed(path, "fork", "k")


def test_what_is_wrong_is_one_sentence(path: Path) -> None:
    """The exit status is 2 for what is not there, and 1 if the run is in another state."""
    assert "the nearest is 'read it'" in refused(path, "redo", "k", "--from", "read")
    assert "the nearest is 'bad'" in refused(path, "set", "k", "parse[bat]", "1")
    assert "no run 'nobody'" in refused(path, "redo", "nobody")
    assert "write --from or --only, not both" in refused(
        path, "redo", "k", "--from", "a", "--only", "b"
    )
    assert "the result is not JSON" in refused(path, "set", "k", "last", "by hand")
    assert "the payload is not JSON" in refused(path, "fork", "k", "x")
    assert "the key 'k' of 'nightly'" in refused(path, "fork", "k", "--key", "k", status=1)
    assert "is a map" in refused(path, "set", "k", "parse", "1", status=1)
    with durably.Durably(path, replace=False) as app, HeldJob() as held:
        app.register(held.job)
        running = app.trigger(held.job.name, 1)
        held.inside()
        assert "is running since" in refused(path, "redo", running.id, status=1)


def test_a_session_is_continued_by_its_program(path: Path) -> None:
    """No process that works executes it."""
    with durably.session("s", path, key="one") as session:
        session.run("a", int)
    assert printed(path, "redo", "one", "--from", "a") == (
        "pending again, 0 completed steps kept. It is executed by the program that opens the "
        "session 's'.\n"
    )
    assert printed(path, "fork", "one").endswith("that opens the session 's'.\n")


def test_show_says_how_to_begin_at_an_earlier_step(path: Path) -> None:
    """If there is one with a result, its name is quoted for the shell."""
    [run] = objects(path, "ls")
    end = run["id"][-8:]
    assert [" ".join(line.split()) for line in printed(path, "show", "k").splitlines()[-2:]] == [
        f"durably retry {end} --db {path} go on from step 'parse'",
        f"durably redo {end} --from 'read it' --db {path} run 'read it' and what follows again",
    ]
    printed(path, "redo", "k")
    executed.clear()
    with pytest.raises(durably.RunFailedError):
        durably.run(nightly, ["unread"], db=path, key="first")
    assert "redo" not in command(path, "show", "first").stdout


def test_calls_that_a_message_advises_are_commands_on_the_same_file() -> None:
    """With the option that the user has given, and quoted as a shell needs it."""
    calls = (
        "app.redo(run, from_step='a b'), app.redo(run, only='m[k]'), "
        "app.set_item(run, 'm', 3, value), app.set_item(run, 'm', 'k', value), "
        """app.set_step(run, "it's", value)"""
    )
    assert Shell(db="my file.db").said(calls).split(", ") == [
        "durably redo RUN --from 'a b' --db 'my file.db'",
        "durably redo RUN --only 'm[k]' --db 'my file.db'",
        "durably set RUN 'm[3]' JSON --db 'my file.db'",
        "durably set RUN 'm[k]' JSON --db 'my file.db'",
        """durably set RUN 'it'"'"'s' JSON --db 'my file.db'""",
    ]
    assert Shell().said("app.redo(run, from_step='a')") == "durably redo RUN --from a"
    both = 'it\'s "b" too'
    said = Shell().said(f"app.set_step(run, {both!r}, value)")
    assert shlex.split(said) == ["durably", "set", "RUN", both, "JSON"]
