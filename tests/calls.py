"""A call in a thread of its own, and calls that wait until a test lets them go on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from durably import Durably

HANG_S = 30  # only guards against hanging


class Call(threading.Thread):
    """A call in a thread of its own, which begins at once."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__()
        self._function = function
        self.outcome: list[Any] = []
        self.start()

    def run(self) -> None:
        try:
            self.outcome.append(self._function())
        except BaseException as exc:
            self.outcome.append(exc)

    def result(self, timeout_s: float = HANG_S) -> Any:
        """Return what it has returned or raised; wait for that."""
        self.join(timeout_s)
        assert self.outcome, "the call has not returned"
        return self.outcome[0]


def in_thread(function: Callable[[], Any]) -> tuple[Call, list[Any]]:
    """Return a call in a thread of its own, and the list that gets what it returns or raises."""
    call = Call(function)
    return call, call.outcome


def names_of_threads() -> list[str]:
    """Return the names of those of durably's threads that are alive."""
    return sorted(each.name for each in threading.enumerate() if each.name.startswith("durably"))


def status(app: Durably, run: Any) -> str:
    found = app.get_run(run)
    assert found is not None
    return found.status


def later(
    monkeypatch: pytest.MonkeyPatch, target: Any, name: str
) -> tuple[threading.Event, threading.Event]:
    """Make the next call of a method wait; set when it has begun, and to be set for it to go on."""
    has_begun, may_go_on = threading.Event(), threading.Event()
    original = getattr(target, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(target, name, original)
        has_begun.set()
        assert may_go_on.wait(HANG_S)
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, call)
    return has_begun, may_go_on


def operation_later(
    monkeypatch: pytest.MonkeyPatch, app: Durably, write: str, operation: Callable[..., Any]
) -> tuple[threading.Event, threading.Event]:
    """Make an operation wait on its way to the database; as ``later``, and each time.

    Args:
        write: by which method of the database it goes, ``"write"`` or ``"beat"``.
    """
    has_begun, may_go_on = threading.Event(), threading.Event()
    target = app._store.database
    original = getattr(target, write)

    def call(called: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if called is operation:
            has_begun.set()
            assert may_go_on.wait(HANG_S)
        return original(called, *args, **kwargs)

    monkeypatch.setattr(target, write, call)
    return has_begun, may_go_on
