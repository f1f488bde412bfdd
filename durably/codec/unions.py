"""Codecs for unions: choose the member for a value, and for data."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

from cattrs.errors import BaseValidationError

from durably.codec.messages import Mismatch, Problem, TooDeep, name_of
from durably.codec.plain import SCALARS, Misfit, copy_and_problems, kept
from durably.codec.redefined import is_redefined
from durably.codec.type_codec import ANYTHING, TypeCodec, TypeCodecLookup

_UNION: Final = "$union"
_VALUE: Final = "value"


def union(codec: TypeCodec, codecs: TypeCodecLookup) -> None:
    """Complete the codec of a union.

    Data is read as the first member that it fits, exact matches first. Where that would not be
    the value's own member, the name of its type is stored with the data.
    """
    members: dict[str, TypeCodec] = {}
    for type_ in typing.get_args(codec.type):
        label = name_of(type_)
        while label in members:
            label += "'"
        members[label] = codecs.of(type_)
    chosen = _Union(codec, members, codecs.has_form)
    codec.is_open = True
    codec.compares = any(member.compares for member in members.values())
    codec.write, codec.read = chosen.write, chosen.read


class _Union:
    def __init__(
        self,
        codec: TypeCodec,
        members: dict[str, TypeCodec],
        has_form: Callable[[type], bool],
    ) -> None:
        self._codec = codec
        self._has_form = has_form
        self._members = members
        self._some = [member for member in members.values() if member.name != "None"]
        self._orders: dict[tuple[type, bool], list[tuple[str, TypeCodec]]] = {}
        # No data fits two members.
        self._is_simple = len(self._some) == 1 or all(m.type in SCALARS for m in self._some)

    def write(self, value: Any) -> Any:
        """Write a value with the codec of its member."""
        tried: list[Any] = []
        rejected: list[Problem] = []
        for label, member in self._candidates(value):
            data = member.write(value)
            if member.has_form and type(data) is not Misfit:
                return data  # its tag says what it is
            try:
                exact = kept(data, self._has_form)
                if self._is_tagged(exact):  # a key of the value's, or a payload as it is stored
                    member.read(exact, None)
                return self._tagged(label, exact)
            except TooDeep:
                raise
            except (Problem, BaseValidationError):
                tried.append(data)
                rejected.append(next(iter(copy_and_problems(data)[1]), self._codec.mismatch(value)))
        # In a payload it may be the data of a member: reading finds out of which one.
        best = min(
            tried, key=lambda data: len(copy_and_problems(data, exact=False)[1]), default=value
        )
        return Misfit(best, self._best_problem(value, rejected))

    def read(self, data: Any, _: Any = None) -> Any:
        """Structure data as the member that it fits."""
        return self._chosen(data)[1]

    def _chosen(self, data: Any) -> tuple[str, Any]:
        if self._is_tagged(data):
            label = data[_UNION]
            return label, self._members[label].read(data[_VALUE], None)
        errors: list[Exception] = []
        for label, member in self._candidates(data, is_data=True):
            try:
                return label, member.read(data, None)
            except RecursionError:
                raise
            except Exception as error:  # noqa: BLE001 - hooks and validators raise anything
                errors.append(error)
        # An error with a path inside the data or a reason is more specific than a mismatch.
        inside = [error for error in errors if isinstance(error, BaseValidationError)]
        reasons = [e for e in errors if isinstance(e, Problem) and not isinstance(e, Mismatch)]
        if inside or reasons:
            raise (inside or reasons)[0]
        raise self._some[0].mismatch(data) if len(self._some) == 1 else self._codec.mismatch(data)

    def _tagged(self, label: str, data: Any) -> Any:
        """Store the label with the data unless the data alone determines the member."""
        if not self._is_tagged(data):
            if self._is_simple and (data is not None or self._members[label].name == "None"):
                return data
            try:
                if self._chosen(data)[0] == label:
                    return data
            except RecursionError:
                raise
            except Exception:  # noqa: BLE001, S110 - reported when the tagged data is read
                pass
        return {_UNION: label, _VALUE: data}

    def _is_tagged(self, data: Any) -> bool:
        return (
            isinstance(data, dict)
            and len(data) == 2
            and _VALUE in data
            and isinstance(data.get(_UNION), str)
            and data[_UNION] in self._members
        )

    def _best_problem(self, value: Any, rejected: list[Problem]) -> Problem:
        """Return the most specific problem of a value that is of no member.

        One inside a member, or with a value of its type, is more specific than a mismatch.
        """
        said = max(rejected, key=lambda p: (len(p.path), not isinstance(p, Mismatch)), default=None)
        if said is not None and (said.path or not isinstance(said, Mismatch)):
            return said
        return (
            self._some[0].mismatch(value) if len(self._some) == 1 else self._codec.mismatch(value)
        )

    def _candidates(self, value: Any, *, is_data: bool = False) -> list[tuple[str, TypeCodec]]:
        """Return the members to try, the likeliest first.

        For objects: those that fit by their keys and single values, or else the nearest one.
        Trying all of them at each level of a recursive type would take time exponential in
        its depth.
        """
        cls = type(value)
        members = self._orders.get((cls, is_data))
        if members is None:
            members = sorted(self._members.items(), key=lambda m: _rank(m[1], cls, is_data=is_data))
            if cls in SCALARS:  # the classes of values are not kept alive
                self._orders[cls, is_data] = members
        if not isinstance(value, Mapping):
            return members
        members = [member for member in members if _takes_objects(member[1])]
        distances = [_distance(member, value) for _, member in members]
        fitting = [m for m, d in zip(members, distances, strict=True) if not d]
        return fitting or [members[distances.index(min(distances))]] if members else []


def _rank(codec: TypeCodec, cls: type, *, is_data: bool) -> int:
    """Return the order of a member: constants, exactly this class, others, anything.

    A value that JSON-like data keeps as it is precedes others, which may change it: 1 is a float.
    """
    origin = typing.get_origin(codec.type)
    if codec is ANYTHING:
        return 2 if cls in SCALARS and not is_data else 4
    if origin is typing.Literal:
        return 0
    type_ = origin or codec.type
    is_its = type_ is cls or is_redefined(cls, type_)
    return 1 if is_its and (cls in SCALARS or not is_data) else 3


def _takes_objects(codec: TypeCodec) -> bool:
    """Return whether an object of JSON may be of the codec's type."""
    cls = typing.get_origin(codec.type) or codec.type
    is_mapping = isinstance(cls, type) and issubclass(cls, Mapping)
    return is_mapping or codec.is_open or codec.fields is not None


def _distance(codec: TypeCodec, value: Mapping[Any, Any]) -> int:
    """Return the number of problems with the keys of an object and with its single values."""
    fields = {} if codec.fields is None else codec.fields
    wrong = sum(key not in fields for key in value) if codec.fields is not None else 0
    for key, field in fields.items():
        if key not in value:
            wrong += field.is_required
        elif type(value[key]) in SCALARS:
            try:
                field.codec.read(value[key], None)
            except Exception:  # noqa: BLE001 - of whatever kind
                wrong += 1
        elif isinstance(value[key], Mapping):
            wrong += not _takes_objects(field.codec)
        elif isinstance(value[key], list):
            wrong += field.codec.fields is not None
    return wrong
