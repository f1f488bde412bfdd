"""Find what stored data names, in the modules that are loaded."""

from __future__ import annotations

import sys
import types
from typing import Any, Final

MISSING: Final = object()
"""Stands for "there is nothing of that name"."""


def loaded(module_name: str, qualname: str) -> object:
    """Return what has a qualified name in a loaded module, without calling any code of it.

    Return ``MISSING`` if there is nothing of that name, or the module is not loaded.
    """
    found: Any = sys.modules.get(module_name)
    if not issubclass(type(found), types.ModuleType):
        return MISSING
    # A module may have a __getattr__ that imports others, and load itself when it is used.
    namespace: Any = object.__getattribute__(found, "__dict__")
    for part in qualname.split("."):
        found = namespace.get(part, MISSING)
        namespace = type.__dict__["__dict__"].__get__(found) if isinstance(found, type) else {}
    return found
