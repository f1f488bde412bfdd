"""The main job of runs that wait: killed at random instants, each of its effects is complete."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from children import DEADLINE_S, ENVIRONMENT

import durably
from durably.testing import check

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "nightly_report.py"
NIGHT = "2026-11-28"
SOLD = {"north": 3, "south": 4, "west": 5}
KILLS = 4  # fewer than the deaths after which a run is failed


class Service(threading.Thread):
    """The service, which is down now and then, and the person who approves."""

    def __init__(self, folder: Path, path: Path, seed: int) -> None:
        super().__init__()
        self.folder, self.path = folder, path
        self.random = random.Random(seed)
        self.ending = threading.Event()
        self.checks_left = 20

    def run(self) -> None:
        """Work until it may end, then be up."""
        down = self.folder / "down"
        while not self.ending.wait(0.05):
            if self.random.random() < 0.3:
                down.touch()
            else:
                down.unlink(missing_ok=True)
            if (self.folder / f"{NIGHT}.batch").exists():
                self.checks_left -= 1
            if self.checks_left == 0:
                part = self.folder / "numbers.part"
                part.write_text(json.dumps(SOLD), encoding="utf-8")
                part.replace(self.folder / f"{NIGHT}.numbers")
            self.approve()
        down.unlink(missing_ok=True)

    def approve(self) -> None:
        """Answer what is asked; the answer has an id, as it may be given again."""
        with durably.Durably(self.path) as app:
            for question in app.get_questions():
                # The run may have been asked anew in between, or ended.
                with suppress(durably.ConflictError):
                    app.answer(question.run_id, question.name, True, answer_id="boss")


@pytest.mark.slow
def test_it_is_killed_at_random_instants_and_ends_with_each_effect(
    tmp_path: Path, seed: int
) -> None:
    """One report for each region and the total, one run for each region, whatever was killed."""
    path, folder = tmp_path / "reports.db", tmp_path / "service"
    folder.mkdir()
    durably.Durably(path).close()
    service = Service(folder, path, seed)
    service.start()
    command = [sys.executable, str(SCRIPT), NIGHT, "--service", str(folder), "--db", str(path)]
    instants = random.Random(seed)
    try:
        for kill in range(KILLS + 1):
            with subprocess.Popen(
                [*command, "--every", "5"], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
            ) as process:
                is_last = kill == KILLS
                try:
                    timeout_s = DEADLINE_S if is_last else instants.uniform(0.3, 2.5)
                    output, _ = process.communicate(timeout=timeout_s)
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    assert not is_last, "it does not come to its end"
    finally:
        service.ending.set()
        service.join()

    assert (process.returncode, output) == (0, "12 sold\n")
    reports = {each.name: each.read_text() for each in folder.glob("*.report")}
    by_region = {f"{NIGHT} {name}.report": f"{name} has sold {n}" for name, n in SOLD.items()}
    assert reports == by_region | {f"{NIGHT} total.report": "12 sold"}
    with durably.Durably(path) as app:
        assert app.count_runs() == app.count_runs(status="completed") == 1 + len(SOLD)
        [parent] = app.get_runs(job_name="nightly-report")
        assert len(app.get_runs(parent=parent)) == len(SOLD)
        outcomes = {each.outcome for each in app.get_attempts(parent)}
        assert outcomes <= {"suspended", "died", "failed", "completed"}
        assert "suspended" in outcomes
    assert check(path) == []
