"""Write values as tagged JSON-like data, and read them back; see :mod:`durably.codec.forms`."""

from __future__ import annotations

import binascii
import io
from typing import Any, Final, cast

from durably._platform.nesting import MAX_DEPTH
from durably._platform.safe_repr import type_name
from durably.codec.form_lookup import Forms
from durably.codec.forms import (
    BINARY,
    BYTES,
    FILE,
    HERE,
    SHAPES,
    SIZE,
    TAG,
    VALUE,
    Binary,
    Form,
    NestedForm,
)
from durably.codec.messages import Problem, Problems, TooDeep, segment, text_of
from durably.codec.parts import Parts, bytes_of
from durably.codec.plain import SCALARS, TWICE, Misfit, key_data, plain_scalar
from durably.errors import DatabaseError

_JSON: Final = (dict, list, Misfit)
# A place inside a value: the place around it, and the key or index. Made text for a message only.
_Place = tuple[Any, Any] | None


class TaggedValues:
    """Write values as tagged JSON-like data, and read them back. Usable from any thread."""

    def __init__(self, forms: Forms | None, parts: Parts | None) -> None:
        self._forms = Forms() if forms is None else forms
        self._parts = parts

    def is_special(self, cls: type) -> bool:
        """Return whether a class has a form that the program chose, or that of a library."""
        return self._forms.special(cls) is not None

    def write(self, value: Any) -> tuple[Any, bool]:
        """Return the data of a value, and whether something in it is tagged.

        Raises:
            TooDeep: it is circular or too deeply nested.
            Problems: something in it has no form.
        """
        writer = _Writer(self._forms, self._parts)
        data = writer.write(value, None, 0)
        if writer.problems:
            raise Problems(writer.problems)
        return data, writer.has_tags

    def write_and_read(self, value: Any, *, is_exact: bool = False) -> tuple[Any, bool, Any]:
        """Return what :meth:`write` returns, and the value that :meth:`read` would return of it.

        Args:
            is_exact: whether to reject instances of subclasses, which come back as the plain type.

        Raises:
            Exception: one that the two raise.
        """
        writer = _Writer(self._forms, self._parts, copies={}, is_exact=is_exact)
        data = writer.write(value, None, 0)
        if writer.problems:
            raise Problems(writer.problems)
        return data, writer.has_tags, _Reader(self._forms, self._parts, writer.copies).read(data, 0)

    def read(self, data: Any) -> Any:
        """Return the value of data that :meth:`write` returned.

        Raises:
            Problem: it is not such data, or it does not fit its class as it is today.
        """
        return _Reader(self._forms, self._parts).read(data, 0)


class _Writer:
    def __init__(
        self,
        forms: Forms,
        parts: Parts | None,
        copies: dict[int, Any] | None = None,
        *,
        is_exact: bool = False,
    ) -> None:
        self._forms = forms
        self._parts = parts
        self._is_exact = is_exact
        # By the identity of its data: a copy of a value that is costly to read back.
        self.copies = copies
        self.problems: list[Problem] = []
        self.has_tags = False
        self._has_forms = False

    def write(self, value: Any, place: _Place, depth: int) -> Any:
        cls = type(value)
        if cls in SCALARS:
            return value
        if depth >= MAX_DEPTH:
            raise TooDeep(has_forms=self._has_forms)
        try:
            form = None if cls in _JSON else self._forms.of(cls)
            if form is not None:
                return self._formed(form, value, place, depth)
            # Instances of subclasses come back as the plain type.
            if isinstance(value, dict):
                self._require_type(value, dict)
                return self._dict(value, place, depth)
            if isinstance(value, list):
                self._require_type(value, list)
                return self._list(value, place, depth)
            if cls is not Misfit:
                return self._scalar(value)
            problem = value.problem
        except TooDeep:
            raise
        except Problem as raised:
            problem = raised
        return self._reject(problem, place)

    def _require_type(self, value: Any, plain: type) -> None:
        if self._is_exact and type(value) is not plain:
            msg = f"{type_name(value)} would come back as {plain.__name__}"
            raise Problem(msg)

    def _scalar(self, value: Any) -> Any:
        plain = plain_scalar(value)
        self._require_type(value, type(plain))
        return plain

    def _list(self, value: list[Any], place: _Place, depth: int) -> list[Any]:
        return [
            item if type(item) in SCALARS else self.write(item, (place, index), depth + 1)
            for index, item in enumerate(value)
        ]

    def _dict(self, value: dict[Any, Any], place: _Place, depth: int) -> Any:
        if TAG not in value and all(type(key) is str or self._is_text(key) for key in value):
            for key in value if self._is_exact else ():
                if type(key) is not str:
                    said = f"{type_name(key)} would come back as str"
                    self._reject(Problem(said), (place, str(key)))
            data = {
                key if type(key) is str else cast("str", plain_scalar(key)): (
                    item if type(item) in SCALARS else self.write(item, (place, key), depth + 1)
                )
                for key, item in value.items()
            }
            return data if len(data) == len(value) else self._reject(Problem(TWICE), place)
        rejected = [key for key in value if type(key) is Misfit]
        for key in rejected:
            self._reject(key.problem, (place, key_data(key)))
        if rejected:
            return None
        return self._formed(self._forms.named("dict"), value, place, depth)

    def _is_text(self, key: Any) -> bool:
        """Return whether a key is of a subclass of ``str`` that comes back as the plain type."""
        return isinstance(key, str) and self._forms.of(type(key)) is None

    def _formed(self, form: Form | NestedForm, value: Any, place: _Place, depth: int) -> Any:
        if type(form) is NestedForm:
            self._has_forms = True

            def inside(child: Any, step: Any = HERE) -> Any:
                return self.write(child, (place, step), depth + form.levels)

            data = form.encode(value, inside)
        else:
            try:
                data = form.encode(value)
            except (Problem, RecursionError, MemoryError):
                raise
            except Exception as error:
                msg = f"the form {form.tag} could not write it: {text_of(error)}"
                raise Problem(msg) from error
        self.has_tags = True
        tagged = self._in_place(form.tag, data)
        if self.copies is not None and type(form) is Form and form.copy is not None:
            if form.maps_file and FILE in tagged and self._parts is not None and self._parts.stored:
                return tagged
            self.copies[id(tagged)] = form.copy(value)
        return tagged

    def _in_place(self, tag: str, data: Any) -> dict[str, Any]:
        if not isinstance(data, BINARY):
            return {TAG: tag, VALUE: data}
        stored = None if self._parts is None else self._parts.put(data)
        if stored is not None:
            name, size = stored
            return {TAG: tag, FILE: name, SIZE: size}
        return {TAG: tag, BYTES: _base64(data)}

    def _reject(self, problem: Problem, place: _Place) -> None:
        path = ""
        while place is not None:
            place, step = place
            # The items of a set have no place, and what they are is not for messages.
            path = path if step is HERE else "[...]" + path if step is ... else segment(step) + path
        self.problems.append(problem.under(path))


class _Reader:
    def __init__(
        self, forms: Forms, parts: Parts | None, copies: dict[int, Any] | None = None
    ) -> None:
        self._forms = forms
        self._parts = parts
        self._copies = copies

    def read(self, data: Any, depth: int) -> Any:
        cls = type(data)
        if cls in SCALARS:
            return data
        if depth > MAX_DEPTH:
            raise TooDeep
        if cls is list:
            return [
                item if type(item) in SCALARS else self._inside(item, index, depth + 1)
                for index, item in enumerate(data)
            ]
        if TAG in data:
            if self._copies and id(data) in self._copies:
                return self._copies[id(data)]
            return self._value(data, depth)
        return {
            key: item if type(item) in SCALARS else self._inside(item, key, depth + 1)
            for key, item in data.items()
        }

    def _inside(self, data: Any, step: Any, depth: int) -> Any:
        try:
            return self.read(data, depth)
        except TooDeep:
            raise
        except Problem as problem:
            raise problem.under(segment(step)) from None

    def _value(self, data: dict[str, Any], depth: int) -> Any:
        tag = data[TAG]
        if type(tag) is not str or data.keys() not in SHAPES:
            msg = "an object with a key '$' that durably does not write"
            raise Problem(msg)
        form = self._forms.named(tag)
        if type(form) is NestedForm:

            def inside(child: Any, step: Any = HERE) -> Any:
                if type(child) in SCALARS:
                    return child
                try:
                    return self.read(child, depth + form.levels)
                except TooDeep:
                    raise
                except Problem as problem:
                    raise (problem if step is HERE else problem.under(segment(step))) from None

            if VALUE not in data:
                raise _damaged(tag)
            return _read(tag, form.decode, data[VALUE], inside)
        if VALUE in data:
            return _read(tag, cast("Form", form).decode, data[VALUE])
        return self._binary(cast("Form", form), data)

    def _binary(self, form: Form, data: dict[str, Any]) -> Any:
        if BYTES in data:
            try:
                content = binascii.a2b_base64(data[BYTES].encode("ascii"), strict_mode=True)
            except (ValueError, AttributeError):
                raise _damaged(form.tag) from None
            return _read(form.tag, form.decode, io.BytesIO(content) if form.reads_file else content)
        if self._parts is None or type(data[FILE]) is not str:
            msg = f"the content of a {form.tag} is in a file, which cannot be read here"
            raise Problem(msg)
        with self._parts.open(data[FILE]) as file:
            return _read(form.tag, form.decode, file if form.reads_file else file.read())


def _read(tag: str, decode: Any, *args: Any) -> Any:
    try:
        return decode(*args)
    except (Problem, DatabaseError, RecursionError, MemoryError):
        raise
    except Exception as error:
        msg = f"the form {tag} cannot read what is stored: {text_of(error)}"
        raise Problem(msg) from error


def _damaged(tag: str) -> Problem:
    return Problem(f"a {tag} that durably did not write so")


def _base64(content: Binary) -> str:
    return binascii.b2a_base64(bytes_of(content), newline=False).decode("ascii")
