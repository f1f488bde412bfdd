"""Find the jobs that are named on a command line: ``module:job`` or ``file.py:job``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, TypeVar

from durably._platform.displayable import displayable
from durably._platform.safe_repr import safe_str
from durably._platform.spawning import loading
from durably.cli.shell import Unknown, shell
from durably.client.handles import JobHandle
from durably.errors import DurablyError
from durably.jobs import Job

AnyJob = Job[Any, Any]
T = TypeVar("T")

_SUFFIX: Final = ".py"


def jobs_of(text: str) -> tuple[AnyJob, ...]:
    """Return the job that is named, or all jobs of the module if none is named.

    Raises:
        Unknown: there is no such module, file or job; or the module raises an error.
    """
    place, _, name = text.partition(":")
    module = _from_file(place) if _is_file(place) else _from_path(place)
    found = _jobs_in(module)
    if not found:
        raise Unknown(f"there is no job in {place!r}: decorate a function of it with @durably.job")
    if not name:
        return tuple(dict.fromkeys(found.values()))
    job = found.get(name) or next((each for each in found.values() if each.name == name), None)
    if job is None:
        raise Unknown(f"there is no job {displayable(name)!r} in {place!r}; {_listed(found)}")
    return (job,)


def job_of(text: str) -> AnyJob:
    """Return the job that is named, or the only one of the module.

    Raises:
        Unknown: as of ``jobs_of``; or there are several jobs in the module and none is named.
    """
    jobs = jobs_of(text)
    if len(jobs) > 1:
        names = ", ".join(displayable(job.name, 40) for job in jobs[:10])
        raise Unknown(f"{text!r} has several jobs; write {text}:NAME with one of {names}")
    return jobs[0]


def _listed(found: dict[str, AnyJob]) -> str:
    return f"its jobs are: {', '.join(displayable(name, 40) for name in list(found)[:20])}"


def _jobs_in(module: ModuleType) -> dict[str, AnyJob]:
    """Return the jobs of a module by the names of their variables."""
    found = {}
    for name, value in list(vars(module).items()):
        job = value.job if isinstance(value, JobHandle) else value
        if isinstance(job, Job):
            found[name] = job
    return found


def _is_file(place: str) -> bool:
    return place.endswith(_SUFFIX) or os.sep in place


def _from_file(path: str) -> ModuleType:
    """Import a script, under the name that another module of its folder would import it by."""
    if not os.path.isfile(path):
        raise Unknown(f"there is no file {path!r}")
    real = os.path.abspath(path)
    name = os.path.basename(real).removesuffix(_SUFFIX)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == real:
        return known
    if known is not None or name in sys.stdlib_module_names:
        name = f"{name}_"
    spec = importlib.util.spec_from_file_location(name, real)
    if spec is None or spec.loader is None:
        raise Unknown(f"{path!r} is no Python file: its name does not end with {_SUFFIX}")
    _put_first(os.path.dirname(real))
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    sys.modules[name] = module
    _importing(path, lambda: loader.exec_module(module))
    return module


def _from_path(name: str) -> ModuleType:
    _put_first(os.getcwd())
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise Unknown(f"{name!r} is no module and no file; write module:job or file.py:job")
    try:
        found = importlib.util.find_spec(name.partition(".")[0])
    except ValueError:
        found = None
    if found is None:
        raise Unknown(f"there is no module {name!r}")
    return _importing(name, lambda: importlib.import_module(name))


def _put_first(folder: str) -> None:
    """Make modules importable from a folder, as Python does for that of a script."""
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _importing(place: str, load: Callable[[], T]) -> T:
    try:
        with loading():
            return load()
    except (Exception, SystemExit) as exc:  # a user's module may raise anything
        if shell().shows_traceback:
            traceback.print_exception(exc)
        raise Unknown(f"{place!r} cannot be imported: {_said(exc)}") from exc


def _said(exc: BaseException) -> str:
    """Return an error of a module's code in one line, with the line that has raised it."""
    if isinstance(exc, SystemExit):
        return (
            "it ends the program; put what the script does under "
            '`if __name__ == "__main__":`, so that it is not done where it is imported'
        )
    if isinstance(exc, DurablyError):
        return displayable(str(exc), 500)
    frames = traceback.extract_tb(exc.__traceback__)
    place = f", line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
    if isinstance(exc, SyntaxError):
        place = ""
    return displayable(f"{type(exc).__name__}: {safe_str(exc)}{place}", 500)
