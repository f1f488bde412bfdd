"""An engine for a command that executes runs here, and what a signal does to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from durably._platform.stop_signals import StopSignals
from durably.cli.shell import Shell, name_of
from durably.client import messages
from durably.client.arguments import AnyRun
from durably.codec import Codec
from durably.entry.engine import Durably
from durably.errors import RunInterrupted
from durably.jobs import Job


class Executing(Durably):
    """An engine on the file of a command, which makes the file if it is missing."""

    def __init__(
        self, shell: Shell, jobs: Iterable[Job[Any, Any]], *, max_workers: int = 4
    ) -> None:
        super().__init__(
            shell.db,
            jobs=jobs,
            blobs=shell.blobs,
            max_workers=max_workers,
            # What the command was called for is what it reports.
            raise_failed=False,
            # Nobody else sees the lines of a process that has no terminal.
            persist_logs=True,
            replace=False,
        )
        self._interrupted: list[str] = []

    def interrupt(self) -> bool:
        """Stop what is executed at its next step; return whether anything is. Signal-safe."""
        runs = self._supervisor.current_runs()
        self._interrupted = [run.id for run in runs]
        for run in runs:
            run.stop(RunInterrupted)
        return bool(runs)

    def interrupted(self) -> list[AnyRun]:
        """Return the runs that ``interrupt`` has stopped, as they are now."""
        found = (self.get_run(run_id) for run_id in self._interrupted)
        return [run for run in found if run is not None]

    def where(self, run: AnyRun) -> str:
        """Return who executes a run that cannot be executed here now, or what it waits for."""
        row, executor = self._store.get_run(run.id), self._store.executor_of(run.id)
        if executor is None and row.concurrency_key is not None:
            return f"{messages.name(row)} waits for another run with its concurrency key"
        return f"{messages.name(row)} {messages.executed(row, executor)}"

    def output_of(self, run: AnyRun) -> Any:
        """Return the output of a completed run as JSON-like data for people and other programs."""
        codec = Codec(shows=True)
        codec.use_files(self._store.files)
        text = self._store.get_run(run.id).output or "null"
        return codec.load_json(text, f"the output of {messages.named(run)}")


def said_of_stop(signals: StopSignals, runs: Iterable[AnyRun]) -> str:
    """Return what a signal has stopped, for the one line that says so."""
    back = [run for run in runs if not run.is_terminal]
    if not back:
        return f"durably: stopped by {signals.received}"
    listed = ", ".join(
        f"{name_of(run)} ({messages.steps_kept(run.completed_steps)})" for run in back[:5]
    )
    more = f" and {len(back) - 5} more" if len(back) > 5 else ""
    return f"durably: stopped by {signals.received}; put back: {listed}{more}"
