"""Values in and out of JSON text, validated, typed and faithful.

cattrs does the structuring, with hooks of durably's that stand in front of its own and
refuse what is not exactly of the type. The way of a result::

    value --form.write--> data --plain--> JSON-like data --dump--> text
                                          JSON-like data --form.read--> what step.run returns

and in the end the last is compared with the first. A payload goes the same way, but may be
data where an instance is expected, and what is wrong with it is told all at once.
"""

from __future__ import annotations

from typing import Any

import cattrs
from cattrs.errors import IterableValidationError

from durably.codec.annotations import resolve_annotations, return_type_of
from durably.codec.forms import Form
from durably.codec.kinds import UNTYPED
from durably.codec.messages import (
    MAX_DEPTH,
    Problem,
    TooDeep,
    Unsupported,
    problems_in,
    sentence,
)
from durably.codec.plain import ATOMS, all_plain, judged, plain
from durably.codec.registry import Registry
from durably.codec.sameness import compare
from durably.codec.text import dump, load
from durably.errors import SerializationError, ValidationError
from durably.shown import type_name

__all__ = ["MAX_DEPTH", "UNTYPED", "Codec", "resolve_annotations", "return_type_of"]


class Codec:
    """Validates values, writes them as JSON text, and reads them back.

    Safe to be used by several threads at once.

    Args:
        converter: hooks for types of the user's own. It is copied; the copy is strict about
            everything else.

    Raises:
        ValidationError: *converter* is not a ``cattrs.Converter``.
    """

    def __init__(self, converter: cattrs.Converter | None = None) -> None:
        if converter is not None and not isinstance(converter, cattrs.Converter):
            msg = f"converter: expected a cattrs.Converter, found {type_name(converter)}"
            raise ValidationError(msg)
        self._forms = Registry(converter)

    def check_type(self, type_: Any, where: str) -> None:
        """Make sure that values of a type can be stored at all.

        Raises:
            ValidationError: they cannot; the message names *where*.
        """
        try:
            self._forms.of(type_)
        except Unsupported as error:
            msg = f"{where}: {error}"
            raise ValidationError(msg) from error

    def structure(self, value: Any, type_: Any, *, what: str) -> Any:
        """Validate a payload: an instance of the type, or data that structures into it.

        Returns:
            The structured value, as it would come back from storage. It shares nothing
            mutable with *value*.

        Raises:
            ValidationError: it does not fit; the message names every bad path.
        """
        cls = type(value)
        if cls in ATOMS and (type_ is UNTYPED or type_ is cls):
            return value
        try:
            form = self._forms.of(type_)
            data = form.write(value)
            try:
                exact = plain(data)
            except TooDeep:
                raise
            except Problem:
                return _read_loosely(form, data)
            result = form.read(exact, type_)
            if form.compares:
                compare(value, result, self._forms.of)
        except Unsupported as error:
            msg = f"{what}: {error}"
            raise ValidationError(msg) from error
        except Exception as error:
            raise ValidationError(sentence(what, problems_in(error))) from error
        return result

    def encode(self, value: Any, type_: Any, *, what: str) -> str:
        """Give the JSON text of a value.

        Raises:
            SerializationError: it has no text from which it would come back the same under
                this type.
        """
        return self.encode_and_decode(value, type_, what=what)[0]

    def decode(self, text: str, type_: Any, *, what: str) -> Any:
        """Give the value of a JSON text.

        Raises:
            ValidationError: the text does not fit the type; the message names every bad path.
        """
        try:
            data = load(text)
            if type_ is UNTYPED or (type(data) is type_ and type_ in ATOMS):
                return data
            return self._forms.of(type_).read(data, type_)
        except Unsupported as error:
            msg = f"{what}: {error}"
            raise ValidationError(msg) from error
        except Exception as error:
            raise ValidationError(sentence(what, problems_in(error))) from error

    def encode_and_decode(self, value: Any, type_: Any, *, what: str) -> tuple[str, Any]:
        """Give the JSON text of a value, and the value that comes back from it.

        Raises:
            SerializationError: it does not come back as it was under this type.
        """
        cls = type(value)
        if cls in ATOMS and (type_ is UNTYPED or type_ is cls):
            return dump(value), value
        try:
            form = self._forms.of(type_)
            # The text says the same as the plain data, so nothing needs to be read from it.
            exact = all_plain(form.write(value))
            text = dump(exact)
            decoded = form.read(exact, type_)
            if form.compares:
                compare(value, decoded, self._forms.of)
        except Unsupported as error:
            msg = f"{what}: {error}; return data of a supported type"
            raise SerializationError(msg) from error
        except Exception as error:
            raise SerializationError(sentence(what, problems_in(error))) from error
        return text, decoded

    def load_json(self, text: str) -> Any:
        """Give the JSON-like data of a stored text.

        Raises:
            ValidationError: it is not JSON.
        """
        return self.decode(text, UNTYPED, what="stored data")


def _read_loosely(form: Form, data: Any) -> Any:
    """Structure a payload that is data, or holds data, where an instance is expected.

    Raises:
        Exception: one that :func:`problems_in` understands.
    """
    try:
        loose = plain(data, exact=False)
    except TooDeep:
        raise
    except Problem:
        # What no form took for its own is told in the words of the type of its place, and
        # else (in a place for any data) in those of JSON.
        held, refused = judged(data, exact=False)
        wrong: dict[str, Problem] = {}
        try:
            form.read(held, form.type)
        except Exception as error:  # noqa: BLE001 - hooks and validators raise anything
            for path, text in problems_in(error):
                wrong.setdefault(path[1:], Problem(text, path[1:]))
        for each in refused:
            wrong.setdefault(each.path, each)
        raise IterableValidationError(form.name, list(wrong.values()), object) from None
    return form.read(loose, form.type)
