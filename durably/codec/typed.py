"""Values of annotated types, which cattrs structures.

The way of a result::

    value --form.write--> data --plain--> JSON-like data --form.read--> what step.run returns

and in the end the last is compared with the first. A payload goes the same way, but may be
data where an instance is expected, and what is wrong with it is told all at once.
"""

from __future__ import annotations

from typing import Any

import cattrs

from durably._platform.interrupts import raise_if_signal
from durably.codec.cattrs_errors import problems_in
from durably.codec.messages import NotStorable, Problem, Problems, TooDeep
from durably.codec.plain import all_plain, copy_and_problems, plain
from durably.codec.roundtrip import compare
from durably.codec.type_codec import TypeCodec
from durably.codec.type_codecs import TypeCodecs


class TypedValues:
    """Turns values of types into JSON-like data and back. Usable from any thread.

    Args:
        converter: hooks for types of the user's own. It is copied; the copy is strict about
            everything else.
    """

    problems_in = staticmethod(problems_in)
    """What is wrong, of any error that the others raise."""

    def __init__(self, converter: cattrs.Converter | None) -> None:
        self._codecs = TypeCodecs(converter)

    def check(self, type_: Any) -> None:
        """Make sure that values of a type can be stored.

        Raises:
            Unsupported: they cannot.
        """
        self._codecs.of(type_)

    def structure(self, value: Any, type_: Any) -> Any:
        """Validate a payload: an instance of the type, or data that structures into it.

        Raises:
            Unsupported: values of the type cannot be stored.
            Exception: one that :func:`problems_in` understands.
        """
        codec = self._codecs.of(type_)
        data = codec.write(value)
        try:
            exact = plain(data)
        except TooDeep:
            raise
        except Problem:
            return _read_loosely(codec, data)
        result = codec.read(exact, type_)
        if codec.compares:
            compare(value, result, self._codecs.of)
        return result

    def write_and_read(self, value: Any, type_: Any) -> tuple[Any, Any]:
        """Give the data of a value, and the value that comes back from it.

        Raises:
            Unsupported: values of the type cannot be stored.
            Exception: one that :func:`problems_in` understands.
        """
        codec = self._codecs.of(type_)
        # The text says the same as the plain data, so nothing needs to be read from it.
        exact = all_plain(codec.write(value))
        decoded = codec.read(exact, type_)
        if codec.compares:
            compare(value, decoded, self._codecs.of)
        return exact, decoded

    def read(self, data: Any, type_: Any) -> Any:
        """Give the value whose data was stored.

        Raises:
            Unsupported: values of the type cannot be stored.
            Exception: one that :func:`problems_in` understands.
        """
        return self._codecs.of(type_).read(data, type_)


def _read_loosely(codec: TypeCodec, data: Any) -> Any:
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
        held, rejected = copy_and_problems(data, exact=False)
        wrong: dict[str, Problem] = {
            each.path: each for each in rejected if type(each) is NotStorable
        }
        try:
            codec.read(held, codec.type)
        except Exception as error:  # noqa: BLE001 - hooks and validators raise anything
            raise_if_signal(error)
            for path, text in problems_in(error):
                wrong.setdefault(path[1:], Problem(text, path[1:]))
        for each in rejected:
            wrong.setdefault(each.path, each)
        raise Problems(wrong.values()) from None
    return codec.read(loose, codec.type)
