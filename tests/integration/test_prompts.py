"""A question of ``app.run`` or a session is asked on the terminal, or is left to others."""

from __future__ import annotations

from pathlib import Path

from terminals import Program

import durably

SOURCE = """
import sys, durably

@durably.job
def job(step):
    print("got", step.ask("n", question="How many?", returns=int), flush=True)
    print("is", step.ask("ok", question="Good?", returns=bool), flush=True)

if HOW == "run":
    durably.run(job, db="runs.db")
else:
    with durably.session("s", db="runs.db") as step:
        job.run(step)
print("ended", flush=True)
"""


def test_a_person_answers_below_the_display_of_a_run(tmp_path: Path) -> None:
    """What does not fit is asked again; the answers are stored as those of others are."""
    with Program(SOURCE.replace("HOW", "'run'"), tmp_path) as program:
        program.wait_for("How many?")
        program.press("many\n")
        program.wait_for("the answer to 'n'")
        program.press("3\n")
        program.wait_for("got 3")
        program.wait_for("Good?")
        program.press("yes\n")
        program.wait_for("is True")
        assert program.end() == 0
    with durably.Durably(tmp_path / "runs.db") as app:
        [run] = app.get_runs()
        assert run.status == "completed"
        assert [each.output for each in app.get_steps(run)] == [3, True]


def test_after_a_ctrl_c_at_the_prompt_others_answer(tmp_path: Path) -> None:
    """It goes on waiting in its thread."""
    with Program(SOURCE.replace("HOW", "'session'"), tmp_path) as program:
        program.wait_for("How many?")
        program.wait_until_it_reads()
        program.press("\x03")
        with durably.Durably(tmp_path / "runs.db") as app:
            [question] = app.get_questions()
            app.answer(question.run_id, "n", 4)
            program.wait_for("got 4")
            program.wait_for("Good?")
            program.press("n\n")
            program.wait_for("is False")
            assert program.end() == 0
