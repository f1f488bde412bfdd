"""Find the form of a class and that of a tag, among Python's, the libraries' and the user's own."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from durably.codec import class_forms, stdlib_forms
from durably.codec.forms import AnyForm
from durably.codec.messages import Problem


class _FormsOfALibrary(Protocol):
    """A module with the forms of a library."""

    def form_of(self, cls: type) -> AnyForm | None: ...

    def form_named(self, tag: str) -> AnyForm | None: ...


# By the name of a library's package: a function that imports and returns durably's module for it.
_LIBRARIES: Final[dict[str, Callable[[], _FormsOfALibrary]]] = {
    name: functools.partial(importlib.import_module, f"durably.codec.libraries.{name}_forms")
    for name in ("numpy",)
}


class Forms:
    """Find the form of a class, and that of a tag. Usable from any thread."""

    def __init__(self, own: Mapping[type, AnyForm] | None = None) -> None:
        self._of = dict(own or {})
        self._named = {form.tag: form for form in self._of.values()}

    def of(self, cls: type) -> AnyForm | None:
        """Return the form of the values of exactly this class."""
        form = self._of.get(cls)
        if form is None:
            form = stdlib_forms.form_of(cls) or _form_of_a_library(cls) or class_forms.form_of(cls)
        return form

    def named(self, tag: str) -> AnyForm:
        """Return the form of a stored tag.

        Raises:
            Problem: there is none.
        """
        form = self._named.get(tag)
        if form is None:
            form = (
                stdlib_forms.form_named(tag)
                or class_forms.form_named(tag)
                or _form_in_a_library(tag)
            )
        if form is None:
            msg = f"a value with the tag {tag!a:.80}, which this version of durably does not know"
            raise Problem(msg)
        return form


def _form_of_a_library(cls: type) -> AnyForm | None:
    for base in cls.__mro__:
        module_of = _LIBRARIES.get(str(base.__module__).partition(".")[0])
        found = None if module_of is None else module_of().form_of(cls)
        if found is not None:
            return found
    return None


def _form_in_a_library(tag: str) -> AnyForm | None:
    library = tag.partition(".")[0]
    module_of = _LIBRARIES.get(library)
    if module_of is None:
        return None
    try:
        return module_of().form_named(tag)
    except ImportError as error:
        msg = f"a value of {library}, which cannot be imported here ({error}); install {library}"
        raise Problem(msg) from error
