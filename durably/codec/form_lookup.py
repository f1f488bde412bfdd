"""Find the form of a class and that of a tag, among Python's, the libraries' and the user's own."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from durably.codec import class_forms, own_forms, stdlib_forms
from durably.codec.forms import AnyForm
from durably.codec.messages import Problem
from durably.codec.own_forms import ValueCodec
from durably.codec.readable import PICKLED


class _FormsOfALibrary(Protocol):
    """A module with the forms of a library."""

    def form_of(self, cls: type) -> AnyForm | None: ...

    def form_named(self, tag: str) -> AnyForm | None: ...


# By the name of a library's package: a function that imports and returns durably's module for it.
_LIBRARIES: Final[dict[str, Callable[[], _FormsOfALibrary]]] = {
    name: functools.partial(importlib.import_module, f"durably.codec.libraries.{name}_forms")
    for name in ("numpy", "pandas", "polars", "pyarrow", "pydantic")
}


class Forms:
    """Find the form of a class, and that of a tag. Usable from any thread.

    Args:
        own: the codecs of one engine. They precede those that are registered for all engines, and
            these durably's.
    """

    def __init__(self, own: Iterable[ValueCodec] = ()) -> None:
        self._of = {codec.type: codec for codec in own}
        self._named = {codec.name: codec for codec in self._of.values()}

    def special(self, cls: type) -> AnyForm | None:
        """Return the form of a class that is the program's choice, or a library's."""
        codec = self._of.get(cls) or own_forms.registered_for(cls)
        return form_of_a_library(cls) if codec is None else own_forms.form_of_codec(codec)

    def of(self, cls: type) -> AnyForm | None:
        """Return the form of the values of exactly this class."""
        return stdlib_forms.form_of(cls) or self.special(cls) or class_forms.form_of(cls)

    def named(self, tag: str) -> AnyForm:
        """Return the form of a stored tag.

        Raises:
            Problem: there is none.
        """
        codec = self._named.get(tag) or own_forms.registered_as(tag)
        form = _form_of_durably(tag) if codec is None else own_forms.form_of_codec(codec)
        if form is None:
            advice = (
                "open it with codecs=[durably.codecs.pickled(...)] of its class"
                if tag.startswith(PICKLED)
                else "register it with durably.codecs.register(...), or pass it in the engine's "
                "codecs="
            )
            msg = f"a value with the tag {tag!a:.80}, which has no codec here; {advice}"
            raise Problem(msg)
        return form


def _form_of_durably(tag: str) -> AnyForm | None:
    return stdlib_forms.form_named(tag) or class_forms.form_named(tag) or _form_in_a_library(tag)


def form_of_a_library(cls: type) -> AnyForm | None:
    """Return the form of a class that is a library's, or derived from one of its own."""
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
