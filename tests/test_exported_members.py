"""What ``import durably`` offers is exactly what the contract names."""

from __future__ import annotations

import importlib.metadata
import inspect
import types

import durably
import durably.plugins
from durably.steps import PlainStep, ReturningStep
from durably.telling import StepLog
from durably.waiting import Subscription

PUBLIC = {
    # jobs and the engine
    "Durably",
    "Job",
    "JobHandle",
    "Trigger",
    "job",
    # steps
    "Retry",
    "StepContext",
    # what is read
    "ErrorInfo",
    "Event",
    "LogEntry",
    "Progress",
    "Run",
    "RunStatus",
    "StepRecord",
    # errors
    "ConflictError",
    "DatabaseError",
    "DatabaseLostError",
    "DurablyError",
    "EngineClosedError",
    "ForkedError",
    "NoWorkerError",
    "NotFoundError",
    "RunCancelledError",
    "RunFailedError",
    "SchemaError",
    "SerializationError",
    "ValidationError",
    "WaitTimeoutError",
    # control flow and warnings
    "DuplicateStepWarning",
    "OwnershipLost",
    "RunCancelled",
    "RunInterrupted",
    "StopRun",
}


def test_all_is_the_contract() -> None:
    """``__all__`` names what the contract names, no more and no less."""
    assert set(durably.__all__) == PUBLIC


def test_all_is_sorted_and_names_nothing_twice() -> None:
    """``__all__`` can be read, and merged, line by line."""
    assert list(durably.__all__) == sorted(set(durably.__all__))


def test_what_is_importable_is_what_all_names() -> None:
    """Nothing else without an underscore, modules apart, can be imported from the package."""
    importable = {
        name
        for name, value in vars(durably).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and name != "annotations"
    }
    assert importable == set(durably.__all__)


def test_the_version_is_that_of_the_package() -> None:
    """``__version__`` is what pip shows, so an old installation does not pass for this one."""
    assert durably.__version__ == importlib.metadata.version("durably")


def test_every_public_name_is_documented_with_the_version_that_brought_it() -> None:
    """A docstring on every name, that tells since when it is there."""
    names = [getattr(durably, name) for name in durably.__all__]
    undated = [
        value.__name__
        for value in [*names, durably.plugins.LogPersistence]
        if ".. versionadded:: " not in (inspect.getdoc(value) or "")
    ]
    assert not undated


def test_every_public_method_is_documented() -> None:
    """A docstring on every public method and property, that tells since when it is there."""
    handed_out = [durably.plugins.LogPersistence, PlainStep, ReturningStep, StepLog, Subscription]
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
