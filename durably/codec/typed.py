"""Convert values of annotated types, which cattrs structures.

The conversions of a result::

    value --codec.write--> data --plain--> JSON-like data --codec.read--> what step.run returns

The last is compared with the first. A payload is converted in the same way, but may be data
where an instance is expected, and all its problems are reported at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cattrs

from durably.codec.cattrs_errors import problems_in
from durably.codec.json_text import dump
from durably.codec.messages import NotStorable, Problem, Problems, TooDeep
from durably.codec.parts import Parts, PartsInMemory
from durably.codec.plain import NotPlainError, Unresolved, copy_and_problems, json_copy, plain
from durably.codec.redefined import unfit
from durably.codec.roundtrip import compare
from durably.codec.tagged import TaggedValues
from durably.codec.type_codec import TypeCodec
from durably.codec.type_codecs import TypeCodecs
from durably.codec.untyped import release, tagged_text


class TypedValues:
    """Convert values of types to JSON-like data and back. Usable from any thread.

    Args:
        converter: hooks for types of the user's own. It is copied; the copy is strict about
            everything else.
        tagged: returns what writes those inside of values that have no type.
    """

    problems_in = staticmethod(problems_in)
    """Yield (path, text) for each problem in an error that the other methods raise."""

    def __init__(
        self, converter: cattrs.Converter | None, tagged: Callable[[Parts | None], TaggedValues]
    ) -> None:
        self._codecs = TypeCodecs(converter, lambda cls: tagged(None).is_special(cls))
        self._tagged = tagged

    def check(self, type_: Any) -> None:
        """Check that values of a type can be stored.

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
            _, exact, _, _ = self._exact(data, PartsInMemory)
        except TooDeep:
            raise
        except Problems:
            return _read_loosely(codec, data)
        result = codec.read(exact, type_)
        if codec.compares:
            compare(value, result, self._codecs.of)
        return result

    def _exact(
        self, data: Any, new_parts: Callable[[], Parts | None]
    ) -> tuple[Any, Any, bool, Parts | None]:
        """Return JSON-like data of what a codec wrote, which may have values of no type in it.

        Returns:
            The data, what the codec is to read of it, whether something in it is tagged, and the
            large binary parts of that.

        Raises:
            TooDeep, Problems: it has none.
        """
        try:
            # The text says the same as the plain data, so nothing needs to be read from it.
            copy = json_copy(data)
        except NotPlainError:
            parts = new_parts()
            try:
                exact, has_tags, back = self._tagged(parts).write_and_read(data)
            except BaseException:
                release(parts)
                raise
            return exact, back if has_tags else exact, has_tags, parts
        return copy, copy, False, None

    def write_and_read(
        self, value: Any, type_: Any, new_parts: Callable[[], Parts | None]
    ) -> tuple[str, Any]:
        """Return the text of a value, and the value that is read back from it.

        Args:
            new_parts: returns what stores the large binary parts of the value; if ``None``, all are
                in the text.

        Raises:
            Unsupported: values of the type cannot be stored.
            Exception: one that :func:`problems_in` understands.
        """
        codec = self._codecs.of(type_)
        exact, inside, has_tags, parts = self._exact(codec.write(value), new_parts)
        try:
            decoded = codec.read(inside, type_)
            if codec.compares:
                compare(value, decoded, self._codecs.of)
        except BaseException:
            release(parts)
            raise
        return tagged_text(exact, parts) if has_tags else dump(exact), decoded

    def unfit(self, value: Any, type_: Any) -> str | None:
        """Return the name of a class that was defined again and whose value does not fit."""
        if type(type_) is Unresolved:
            return None
        return unfit(self._codecs.of(type_).write, value)

    def read(self, data: Any, type_: Any) -> Any:
        """Return the value of stored data.

        Raises:
            Unsupported: values of the type cannot be stored.
            Exception: one that :func:`problems_in` understands.
        """
        return self._codecs.of(type_).read(data, type_)


def _read_loosely(codec: TypeCodec, data: Any) -> Any:
    """Structure a payload that is or contains data where an instance is expected.

    Raises:
        Exception: one that :func:`problems_in` understands.
    """
    try:
        loose = plain(data, exact=False)
    except TooDeep:
        raise
    except Problem:
        # A value of a wrong type is reported in the words of the expected type, or where any
        # data is allowed, in those of JSON.
        held, rejected = copy_and_problems(data, exact=False)
        wrong: dict[str, Problem] = {
            each.path: each for each in rejected if type(each) is NotStorable
        }
        try:
            codec.read(held, codec.type)
        except Exception as error:  # noqa: BLE001 - hooks and validators raise anything
            for path, text in problems_in(error):
                wrong.setdefault(path[1:], Problem(text, path[1:]))
        for each in rejected:
            wrong.setdefault(each.path, each)
        raise Problems(wrong.values()) from None
    return codec.read(loose, codec.type)
