"""What ``import durably`` offers is exactly what the contract names."""

from __future__ import annotations

import importlib.metadata
import inspect
import types
from pathlib import Path

import pytest

import durably
import durably.plugins
from durably.client.calls import RunCalls
from durably.client.subscribe import Subscription
from durably.entry.engine_options import EngineOptions
from durably.execution.loops.iterator import ItemIterator
from durably.execution.loops.step_loops import StepLoops
from durably.execution.step_log import StepLog
from durably.execution.step_options import PlainStep, ReturningStep
from durably.settings.options import SettingOptions

PUBLIC = {
    # jobs and the engine
    "Durably",
    "Job",
    "JobHandle",
    "Trigger",
    "job",
    "imap",
    "map",
    "run",
    "Session",
    "session",
    # steps
    "NOTHING",
    "fingerprint_of",
    "RateLimit",
    "Retry",
    "RetryAfter",
    "StepContext",
    # what is read
    "Attempt",
    "ErrorInfo",
    "Event",
    "LogEntry",
    "Plan",
    "PlannedStep",
    "Progress",
    "Run",
    "RunStatus",
    "Question",
    "Ticket",
    "WaitingFor",
    "StepRecord",
    "ItemCounts",
    "ItemRecord",
    "MapResult",
    # errors
    "BackupExistsError",
    "ConflictError",
    "DatabaseError",
    "DatabaseLostError",
    "DuplicateStepError",
    "DurablyError",
    "EngineClosedError",
    "ExecutorBrokenError",
    "ForkedError",
    "ItemsFailedError",
    "NoWorkerError",
    "NotFoundError",
    "RunCancelledError",
    "RunFailedError",
    "RunsFailedError",
    "SchemaError",
    "SerializationError",
    "StepTimeoutError",
    "ValidationError",
    "WaitTimeoutError",
    "WorkerDiedError",
    # control flow and warnings
    "DuplicateStepWarning",
    "DurablyWarning",
    "CodeChangedWarning",
    "ItemsChangedWarning",
    "OwnershipLost",
    "PayloadChangedWarning",
    "RunSuspended",
    "RunCancelled",
    "RunInterrupted",
    "StopRun",
}


ENGINE = (
    "start stop close init run run_until_idle process_one register jobs get_job trigger "
    "trigger_and_wait batch_trigger get_run get_runs "
    "runs count_runs get_steps steps get_items get_attempts get_logs plan wait as_completed retry "
    "redo fork set_step set_item "
    "adopt answer signal get_questions retrigger "
    "cancel delete_run purge_runs backup vacuum on on_error subscribe use to_dict "
    "to_frame"
)
HANDLE = "name job trigger trigger_and_wait batch_trigger get_run get_runs to_dict to_frame"
SESSION = "close get_run to_dict to_frame"
STEP = (
    "run map imap parallel options note progress log run_id job_name labels attempt cancelled "
    "check sleep remaining sleep_until poll ask prepare wait_for trigger call"
)
RUN = (
    "id job_name status payload output error progress labels idempotency_key concurrency_key "
    "attempt completed_steps created_at started_at completed_at updated_at heartbeat_at "
    "disposition kind waiting_for run_at failures parent_id code_changed is_terminal is_active "
    "duration "
    "result wait refresh steps items attempts logs plan cancel retry redo fork set_step "
    "set_item forked_from timeline "
    "to_dict to_frame"
)
STEP_RECORD = (
    "name index status output error started_at completed_at attempt items is_manual attempts notes"
)
EVENT = "type timestamp sequence run_id job_name labels"


def test_objects_have_the_members_of_the_contract_and_no_others(tmp_path: Path) -> None:
    """What ``dir`` shows of an engine and of all that it hands out is what a user can rely on."""
    seen: dict[str, object] = {}

    @durably.job
    def job(step: durably.StepContext) -> None:
        seen[STEP] = step
        seen["debug info warning warn error exception critical"] = step.log
        seen["run"] = step.options()
        step.progress(1)
        step.log.info("x")
        step.run("step", int)
        raise ValueError("no")

    with durably.Durably(tmp_path / "x.db", jobs=[job]) as app:
        app.use(durably.plugins.LogPersistence())
        app.on("run:cancel", lambda event: seen.update({EVENT: event}))
        handle = app.jobs["job"]
        with pytest.raises(durably.RunFailedError) as failed:
            handle.trigger_and_wait()
        run = failed.value.run
        (seen[STEP_RECORD],) = app.get_steps(run)
        (seen["level message data step_name created_at"],) = app.get_logs(run)
        with app.subscribe(run) as seen["close"]:
            pass
        app.stop()
        app.cancel(handle.trigger())

    with durably.session("x", tmp_path / "x.db") as seen[f"{STEP} {SESSION}"]:
        pass

    seen |= {
        ENGINE: app,
        HANDLE: handle,
        RUN: run,
        "current total message": run.progress,
        "type message traceback notes": run.error,
        "name run input output on_duplicate_step retry timeout origin on_change": job,
        "name install": durably.plugins.LogPersistence(),
        (
            "payload idempotency_key concurrency_key coalesce retry_failed on_payload_change "
            "run_at delay retry timeout labels"
        ): durably.Trigger(),
        "attempts wait backoff max_wait jitter on on_exhausted": durably.Retry(),
    }
    for names, value in seen.items():
        public = {name for name in dir(value) if not name.startswith("_")}
        assert public == set(names.split()), type(value)


def test_all_is_the_contract() -> None:
    """``__all__`` names what the contract names, no more and no less."""
    assert set(durably.__all__) == PUBLIC


def test_all_is_sorted_and_names_nothing_twice() -> None:
    """``__all__`` can be read, and merged, line by line."""
    constants_first = sorted(set(durably.__all__), key=lambda name: (not name.isupper(), name))
    assert list(durably.__all__) == constants_first


def test_what_is_importable_is_what_all_names() -> None:
    """Nothing else without an underscore, modules apart, can be imported from the package."""
    importable = {
        name
        for name in dir(durably)
        if not name.startswith("_")
        and not isinstance(getattr(durably, name), types.ModuleType)
        and name != "annotations"
    }
    assert importable == set(durably.__all__)


def test_the_version_is_that_of_the_package() -> None:
    """``__version__`` is what pip shows, so an old installation does not pass for this one."""
    assert durably.__version__ == importlib.metadata.version("durably")


def test_every_public_name_is_documented_with_the_version_that_brought_it() -> None:
    """A docstring on every name, that says since when it is there."""
    names = [getattr(durably, name) for name in durably.__all__]
    undated = [
        value.__name__
        for value in [*names, durably.plugins.LogPersistence]
        if ".. versionadded:: " not in (inspect.getdoc(value) or "")
    ]
    assert not undated


def test_every_public_method_is_documented() -> None:
    """A docstring on every public method and property, that says since when it is there."""
    handed_out = [
        durably.plugins.LogPersistence,
        ItemIterator,
        PlainStep,
        ReturningStep,
        RunCalls,
        StepLog,
        StepLoops,
        Subscription,
    ]
    undated = [
        f"{cls.__name__}.{name}"
        for cls in [*vars(durably).values(), *handed_out]
        if inspect.isclass(cls) and (cls.__name__ in durably.__all__ or cls in handed_out)
        for name, member in vars(cls).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, property))
        and ".. versionadded:: " not in (inspect.getdoc(member) or "")
    ]
    assert not undated


def test_the_options_of_an_engine_are_those_of_its_type() -> None:
    """What takes the options of an engine takes each of them, and type checkers know it."""
    # The calls that take the others have a ``show`` of their own.
    options = inspect.signature(durably.Durably).parameters.keys() - {"path", "show"}
    assert EngineOptions.__annotations__.keys() == options
    assert SettingOptions.__annotations__.keys() == options - {"jobs", "converter", "codecs"}
