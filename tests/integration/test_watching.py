"""``durably watch`` in this process, and prompts without a terminal."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest
from clikit import command
from engines import engine
from held import HeldJob

import durably
from durably.cli import watching
from durably.execution import prompting


@pytest.mark.parametrize("named", [False, True])
def test_a_line_is_printed_for_each_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """Of one run until it ends, and of all that are executed until Ctrl-C."""
    held = HeldJob()
    with engine(tmp_path, held.job) as app, held:
        app.start()
        run = app.jobs["held"].trigger(1, idempotency_key="k")
        held.inside()
        looks = iter(range(3))

        def wait(*_: object) -> None:
            if next(looks) == 0:
                held.let_all_go()
                app.wait(run, timeout=20)
            elif not named:
                raise KeyboardInterrupt

        monkeypatch.setattr(watching, "_wait", wait)
        result = command(tmp_path / "durably.db", "watch", *(["k"] if named else []))
    first, last, *more = result.stdout.splitlines()
    assert (" held k running" in first, " held k completed" in last, more) == (True, True, [])
    assert (result.exit_code == 0) == named


def test_what_is_typed_is_checked_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Words for a bool, JSON for other types, text as it is; without a line others answer."""
    typed: Iterator[str] = iter(["perhaps", "Yes", "[1, 2]", "3"])
    asked = []

    def type_in(question: str) -> str:
        asked.append(question)
        line = next(typed, None)
        if line is None:
            app.answer(app.get_questions()[0].run_id, "late", "elsewhere")
            raise EOFError
        return line

    monkeypatch.setattr(prompting, "can_ask_here", lambda: True)
    monkeypatch.setattr(builtins, "input", type_in)

    def job(step: durably.StepContext) -> list[object]:
        return [
            step.ask("ok", question="Good?", returns=bool),
            step.ask("list", returns=list[int]),
            step.ask("text", returns=str),
            step.ask("late", returns=str),
        ]

    with engine(tmp_path, job) as app:
        run = app.run("job", show=False)
    assert run.output == [True, [1, 2], "3", "elsewhere"]
    assert asked == ["Good? ", "Good? ", "list ", "text ", "late "]
    assert "the answer to 'ok'" in capsys.readouterr().out
