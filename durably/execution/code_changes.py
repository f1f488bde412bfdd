"""Find results that other code has made, and say so once for each function."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

from durably._platform.clock import moment
from durably._platform.fingerprints import fingerprint, innermost, is_other
from durably._platform.safe_repr import on_one_line
from durably._platform.tracebacks import stacklevel
from durably.errors import CodeChangedWarning
from durably.execution.current_run import CurrentRun, Services
from durably.execution.step_recorder import StepRecorder

# Functions with defaults whose fingerprint is kept as long as the run is executed.
_MOST_KEPT: Final = 256
_OWN_PACKAGE: Final = "durably."
_LONGEST_NAME: Final = 120


def code_of(fn: Callable[..., Any]) -> int | None:
    """Return the fingerprint of a step's function, ``None`` for durably's own and for C code."""
    return _code_and_name(fn)[0]


def _code_and_name(fn: Callable[..., Any]) -> tuple[int | None, str]:
    """Return ``code_of`` a function, and the name under which it can be found."""
    inner = innermost(fn)
    if inner is None or (inner.__module__ or "").startswith(_OWN_PACKAGE):
        return None, ""
    name = f"{inner.__module__}:{inner.__qualname__}"
    if not name.isascii():
        name = name.encode(errors="replace").decode()  # it may not be valid Unicode
    return fingerprint(inner), name


class CodeChanges:
    """The code of the steps of one run: of those that are stored, and of today's functions.

    Usable from any thread.
    """

    def __init__(self, run: CurrentRun, services: Services, recorder: StepRecorder) -> None:
        self._run = run
        self._services = services
        self._recorder = recorder
        # Those of plain functions, whatever run has called them first.
        self._known = services.known_codes
        self.codes = self._known.by_id
        # Those of functions with defaults, or that are wrapped, if they capture nothing: they keep
        # nothing else alive.
        self._others: dict[Callable[..., Any], int | None] = {}
        self._is_noted = False
        # The functions for which a warning was raised, with their code.
        self._said: set[tuple[str, int | None]] = set()

    def of(self, fn: Callable[..., Any]) -> int | None:
        """Return the fingerprint of a function."""
        if type(fn) is not FunctionType:
            return self._read(fn)
        number = id(fn.__code__)
        if number in self.codes and fn.__defaults__ is None:
            return self.codes[number]
        if fn in self._others:
            return self._others[fn]
        found = self._read(fn)
        is_plain = fn.__defaults__ is None and fn.__kwdefaults__ is None and not fn.__dict__
        if is_plain:
            self._known.keep(fn.__code__, found)
        elif fn.__closure__ is None and len(self._others) < _MOST_KEPT:
            self._others[fn] = found
        return found

    def _read(self, fn: Callable[..., Any]) -> int | None:
        code, name = _code_and_name(fn)
        if code is not None:
            self._services.checkpoints.name_code(code, name)
        return code

    def used(
        self,
        name: str,
        fn: Callable[..., Any],
        stored: int | None,
        *,
        several: bool = False,
        warns: bool = True,
    ) -> None:
        """Note that a step's result is used that the code with the fingerprint *stored* has made.

        Warns at the job's line if that is not today's.

        Args:
            several: whether it is a map, which has several results.
            warns: whether to warn.
        """
        now = self.of(fn)
        if not is_other(stored, now):
            return
        self._note()
        called = _called(fn)
        if not warns or (called, now) in self._said:
            return
        self._said.add((called, now))
        warnings.warn(
            f"step {name!r} was stored by an earlier version of {called}() "
            f"({self.stored_at(name)}); its {'results are' if several else 'result is'} used. "
            f"To execute it again: {self._advice(name, several=several)}",
            CodeChangedWarning,
            stacklevel=stacklevel(),
        )

    def _note(self) -> None:
        """Store that this execution uses a result of other code."""
        if not self._is_noted:
            self._is_noted = True
            self._recorder.stored(self._services.checkpoints.note_code_changed, self._run.run_pk)

    def _advice(self, name: str, *, several: bool) -> str:
        if self._run.row.kind != "session":
            return self._redo(name)
        if several and name == self._run.job_name:  # durably.map, which has no session to open
            return 'pass on_change="redo"'
        return 'open the session with on_change="redo", or give the step another name'

    def _redo(self, name: str) -> str:
        if self._run.row.kind == "session":
            command = f"durably redo {self._run.id} --from {shlex.quote(name)}"
            return f"{command}, once the session is closed,"
        return f"app.redo(run, from_step={name!r})"

    def stored_at(self, name: str) -> str:
        """Return when a step or a map was stored, for people."""
        stored_us = self._recorder.read(
            self._services.checkpoints.stored_at, self._run.run_pk, name
        )
        return "at an unknown time" if stored_us is None else moment(stored_us)

    def ways_out(self, name: str) -> str:
        """Return what to do about a stored result of a step that does not fit its type."""
        again = f"{self._redo(name)} executes the step again"
        return (
            f"it was stored by an earlier version of the code ({self.stored_at(name)}): give new "
            f"fields a default, or {again}, or app.set_step(run, {name!r}, value) stores another "
            "result"
        )


def _called(fn: Callable[..., Any]) -> str:
    inner = innermost(fn)
    name = "the function" if inner is None else inner.__qualname__.rpartition("<locals>.")[2]
    return on_one_line(name, _LONGEST_NAME)
