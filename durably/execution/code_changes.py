"""Find results that other code has made, and say so once for each function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

from durably._platform.clock import moment
from durably._platform.commands import command, quoted
from durably._platform.fingerprints import fingerprint, innermost, is_other
from durably._platform.safe_repr import on_one_line
from durably._platform.tracebacks import stacklevel
from durably.errors import CodeChangedWarning
from durably.execution.current_run import CurrentRun
from durably.execution.services import Services
from durably.execution.step_recorder import StepRecorder

_OWN_PACKAGE: Final = "durably."
_LONGEST_NAME: Final = 120


def code_of(fn: Callable[..., Any]) -> int | None:
    """Return the fingerprint of a step's function, ``None`` for durably's own and for C code."""
    return _code_and_name(fn)[0]


def _code_and_name(fn: Callable[..., Any]) -> tuple[int | None, str]:
    """Return ``code_of`` a function, and the name under which it can be found, if it has one."""
    inner = innermost(fn)
    if inner is None or (inner.__module__ or "").startswith(_OWN_PACKAGE):
        return None, ""
    if "<" in inner.__qualname__ and (inner.__defaults__ or inner.__kwdefaults__):
        return fingerprint(inner), ""  # each that is made has another one, as may be in a loop
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
        self._codes = self._known.by_id
        self._is_noted = False
        # The functions for which a warning was raised, with their code.
        self._said: set[tuple[str, int | None]] = set()

    def of(self, fn: Callable[..., Any]) -> int | None:
        """Return the fingerprint of a function."""
        if type(fn) is not FunctionType:
            return self._read(fn)
        number = id(fn.__code__)
        if number in self._codes and fn.__defaults__ is None:
            return self._codes[number]
        found = self._read(fn)
        if fn.__defaults__ is None and fn.__kwdefaults__ is None and not fn.__dict__:
            self._known.keep(fn.__code__, found)
        return found

    def _read(self, fn: Callable[..., Any]) -> int | None:
        code, name = _code_and_name(fn)
        if code is not None and name:
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
        return f"app.redo(run, from_step={name!r})"

    def stored_at(self, name: str) -> str:
        """Return when a step or a map was stored, for people."""
        stored_us = self._recorder.read(
            self._services.checkpoints.stored_at, self._run.run_pk, name
        )
        return "at an unknown time" if stored_us is None else moment(stored_us)

    def ways_out(self, name: str, item: tuple[int, str | int] | None = None) -> str:
        """Return what to do about a stored result of a step that does not fit its type.

        Args:
            item: whose result it is, in a map: its index and its key.
        """
        origin = self._services.checkpoints.origin
        index = None if item is None else item[0]
        found = self._recorder.read(origin, self._run.run_pk, name, index)
        stored_us, is_manual = found or (None, False)
        when = "at an unknown time" if stored_us is None else moment(stored_us)
        redo, set_other = self._calls(name, item, is_single=is_manual)
        what = "step" if item is None else "item" if is_manual else "map"
        once = ", once the session is closed" if self._run.row.kind == "session" else ""
        if is_manual:
            return (
                f"it was set by hand ({when}): {set_other} stores another one, or {redo} executes "
                f"the {what} again{once}"
            )
        return (
            f"it was stored by an earlier version of the code ({when}): give new fields a default, "
            f"or {redo} executes the {what} again, or {set_other} stores another result"
            f"{'' if item is None else ' of this item'}{once}"
        )

    def _calls(
        self, name: str, item: tuple[int, str | int] | None, *, is_single: bool
    ) -> tuple[str, str]:
        """Return what executes a step again, and what sets the result of it or of its item.

        Args:
            is_single: whether to execute nothing but the item again, if it is one.
        """
        one = name if item is None else f"{name}[{item[1]}]"
        is_single = is_single and item is not None
        if self._run.row.kind == "session":  # which has no app
            run_id, path = self._run.id, self._services.path
            option = f"--only {quoted(one)}" if is_single else f"--from {quoted(name)}"
            return (
                command(f"redo {run_id} {option}", path),
                command(f"set {run_id} {quoted(one)} JSON", path),
            )
        redo = f"app.redo(run, only={one!r})" if is_single else self._redo(name)
        if item is None:
            return redo, f"app.set_step(run, {name!r}, value)"
        return redo, f"app.set_item(run, {name!r}, {item[1]!r}, value)"


def _called(fn: Callable[..., Any]) -> str:
    inner = innermost(fn)
    name = "the function" if inner is None else inner.__qualname__.rpartition("<locals>.")[2]
    return on_one_line(name, _LONGEST_NAME)
