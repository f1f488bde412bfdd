"""Fingerprints of functions: whether the code of one is the same as in an earlier launch.

A fingerprint has 64 bits. The lowest 12 say which Python has compiled the code, and how: two that
differ in them cannot be compared. It is the same in each process, whatever the hash seed, the place
of the file and the numbers of its lines are.
"""

from __future__ import annotations

import dis
import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any, Final, NamedTuple

try:
    # hashlib has it from there, and loads OpenSSL as well, which takes ten times as long.
    from _blake2 import blake2b
except ImportError:  # a Python without hash functions of its own
    from hashlib import blake2b

# Raised when the rules below change: fingerprints that an earlier version has made are then not
# compared.
_RULES: Final = 1
_COMPILER_BITS: Final = 12
_COMPILER: Final = _RULES << 8 | min(sys.flags.optimize, 3) << 6 | sys.version_info.minor & 0x3F
_COMPILER_MASK: Final = (1 << _COMPILER_BITS) - 1
_LONGEST_CHAIN: Final = 100
# What kind of function it is, and how it is called; not where it was defined.
_FLAGS: Final = 0x04 | 0x08 | 0x20 | 0x80 | 0x100 | 0x200
_IS_FUNCTION: Final = 0x01
_LEFT_OUT: Final = frozenset({"NOP", "CACHE", "EXTENDED_ARG"})
# What the body of a class says of its place and of its text.
_ABOUT_CLASSES: Final = frozenset(
    {"__doc__", "__firstlineno__", "__static_attributes__", "__qualname__"}
)
_PLAIN: Final = frozenset({bool, int, float, complex, str, bytes, type(None), type(...)})


def fingerprint(function: Callable[..., Any]) -> int | None:
    """Return the fingerprint of a function; ``None`` if it has no code that can be read.

    It is that of the innermost function, with its defaults.
    """
    inner = function if type(function) is FunctionType else None
    if inner is None or inner.__dict__:
        inner = innermost(function)
        if inner is None:
            return None
    code = inner.__code__
    known = _known.get(id(code))
    if known is None:
        known = _remember(code)
    defaults, keywords = inner.__defaults__, inner.__kwdefaults__
    if defaults is None and keywords is None:
        return known
    said = [_constant(value) for value in defaults or ()]
    if keywords:
        said += [f"{name}={_constant(value)}" for name, value in sorted(keywords.items())]
    return _digest([str(known), *said])


def is_comparable(one: int, other: int) -> bool:
    """Return whether two fingerprints are of code that the same Python has compiled."""
    return not (one ^ other) & _COMPILER_MASK


def is_other(one: int | None, other: int | None) -> bool:
    """Return whether two fingerprints are of different code, as far as that can be known."""
    if one is None or other is None or one == other:
        return False
    return is_comparable(one, other)


def innermost(function: Callable[..., Any]) -> FunctionType | None:
    """Return the function whose code a call executes in the end, if it can be found.

    That is what is inside of a ``functools.partial``, of a method, and of what
    ``functools.wraps`` was given; of an object that can be called, its ``__call__``.
    """
    found: Any = function
    for _ in range(_LONGEST_CHAIN):
        kind = type(found)
        if kind is FunctionType:
            wrapped = found.__dict__.get("__wrapped__")
            if wrapped is None:
                return found  # type: ignore[no-any-return]  # it is one
            found = wrapped
        elif issubclass(kind, functools.partial):
            found = found.func
        elif kind is MethodType:
            found = found.__func__
        else:
            found = _inside(found, kind)
            if found is None:
                break
    return None


def _inside(found: Any, kind: type) -> Any:
    """Return what an object that can be called calls, without a call of anything of its class."""
    try:
        wrapped = object.__getattribute__(found, "__dict__").get("__wrapped__")
    except AttributeError:
        wrapped = None
    if wrapped is not None or issubclass(kind, type):
        return wrapped
    calls = (vars(cls)["__call__"] for cls in kind.__mro__ if "__call__" in vars(cls))
    call = next(calls, None)
    return call if type(call) is FunctionType else None


# By the id of a code object, until that dies: its hash takes as long as reading all of it.
_known: Final[dict[int, int]] = {}
_alive: Final[dict[int, weakref.ref[CodeType]]] = {}


def _remember(code: CodeType) -> int:
    number = id(code)

    def forget(_: object) -> None:
        _known.pop(number, None)
        _alive.pop(number, None)

    found = _digest(_parts(code))
    _alive[number] = weakref.ref(code, forget)
    _known[number] = found
    return found


def _digest(parts: list[str]) -> int:
    text = "\0".join(parts).encode(errors="surrogatepass")
    number = int.from_bytes(blake2b(text, digest_size=8).digest(), "big", signed=True)
    return number & ~_COMPILER_MASK | _COMPILER


# These do not go on with the next instruction, or always with another one.
_ENDS: Final = frozenset({"RETURN_VALUE", "RAISE_VARARGS", "RERAISE"})
_JUMPS: Final = frozenset({"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"})
# Which of the two ways of a branch comes next is a question of the layout.
_OPPOSITE: Final = {"TRUE": "FALSE", "NOT_NONE": "NONE"}


class _Instruction(NamedTuple):
    offset: int
    name: str
    value: Any = None
    # The name of a local variable, and the offset of where it may jump to.
    local: str | None = None
    target: int | None = None


def _parts(code: CodeType) -> list[str]:
    """Return what a code object does, in texts that say nothing of its place and its formatting.

    The instructions come in the order in which a walk through all branches finds them, because the
    compiler lays branches out by the lines that they are on. Local variables are numbered in that
    order, unless an inner function has them too.
    """
    parts = [repr((*_counts(code), code.co_posonlyargcount, code.co_flags & _FLAGS))]
    shared = {*code.co_cellvars, *code.co_freevars}
    locals_ = {name: number for number, name in enumerate(code.co_varnames[: sum(_counts(code))])}
    for each, ways in _Graph(code).walk():
        value = each.value
        if each.local is not None:
            is_shared = each.local in shared
            value = each.local if is_shared else f"#{locals_.setdefault(each.local, len(locals_))}"
        parts.append(f"{each.name} {value} {ways}")
    return parts


def _counts(code: CodeType) -> tuple[int, int]:
    return code.co_argcount, code.co_kwonlyargcount


class _Graph:
    """The instructions of a code object, and which of them may follow which."""

    def __init__(self, code: CodeType) -> None:
        self._instructions = list(_instructions(code))
        # The first instruction that is left at each offset, or after it.
        self._places: list[int] = []
        for place, each in enumerate(self._instructions):
            self._places += [place] * (each.offset + 1 - len(self._places))
        end = len(self._instructions)
        self._places += [end] * (len(code.co_code) + 1 - len(self._places))
        # What catches an exception of an instruction, and how.
        self._handlers: dict[int, tuple[int, int, bool]] = {}
        for entry in dis._parse_exception_table(code):  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other way
            for place in range(self._places[entry.start], self._places[entry.end]):
                self._handlers[place] = self._at(entry.target), entry.depth, entry.lasti

    def _at(self, offset: int) -> int:
        return self._follow(self._places[offset])

    def _follow(self, place: int) -> int:
        """Return where the code goes on at a place: not at an instruction that only jumps."""
        for _ in self._instructions:
            if place >= len(self._instructions) or self._instructions[place].name not in _JUMPS:
                break
            place = self._places[self._instructions[place].target or 0]
        return place

    def walk(self) -> Iterator[tuple[_Instruction, str]]:
        """Yield each instruction that can be reached, and the numbers of those that may follow."""
        found: list[tuple[_Instruction, list[int]]] = []
        numbers: dict[int, int] = {}
        left = [self._at(0)]
        while left:
            place = left.pop()
            if place in numbers:
                continue
            numbers[place] = len(found)
            each, ways = self._from(place)
            if place in self._handlers:
                ways.append(self._handlers[place][0])
            found.append((each, ways))
            left += reversed(ways)
        for place, (each, ways) in zip(numbers, found, strict=True):
            handler = self._handlers.get(place, (0,))[1:]
            yield each, f"{[numbers[way] for way in ways]}{handler or ''}"

    def _from(self, place: int) -> tuple[_Instruction, list[int]]:
        each = self._instructions[place]
        has_next = each.name not in _ENDS and place + 1 < len(self._instructions)
        ways = [self._follow(place + 1)] if has_next else []
        if each.target is None:
            return each, ways
        ways.append(self._at(each.target))
        if each.name.startswith("POP_JUMP"):
            question = each.name.partition("_IF_")[2]
            if question in _OPPOSITE:
                question = _OPPOSITE[question]
                ways.reverse()
            each = each._replace(name=f"POP_JUMP_IF_{question}")
        return each, ways


def _instructions(code: CodeType) -> Iterator[_Instruction]:
    """Yield the instructions, but for those that only the formatting brings about."""
    for each in _kept(code):
        offset, name, value, opcode = each.offset, each.opname, each.argval, each.opcode
        if type(value) is tuple and opcode in dis.haslocal:
            # Two instructions are one if they are on one line.
            second = max(name.rfind("LOAD_FAST"), name.rfind("STORE_FAST"))
            yield _Instruction(offset, name[: second - 1], local=value[0])
            yield _Instruction(offset, name[second:], local=value[1])
        elif opcode in dis.hasjrel or opcode in dis.hasjabs:
            yield _Instruction(offset, name, target=value)
        elif name == "RETURN_CONST":
            yield _Instruction(offset, "LOAD_CONST", _constant(value))
            yield _Instruction(offset, "RETURN_VALUE")
        elif opcode in dis.hasconst:
            yield _Instruction(offset, name, _constant(value))
        elif opcode in dis.haslocal or opcode in dis.hasfree:
            yield _Instruction(offset, name, local=value)
        else:
            yield _Instruction(offset, name, value if opcode in dis.hasname else each.arg)


def _kept(code: CodeType) -> Iterator[dis.Instruction]:
    """Yield the instructions that matter; of the body of a class, not what says where it is."""
    is_class = not code.co_flags & _IS_FUNCTION
    last: dis.Instruction | None = None
    for each in dis.get_instructions(code):
        if each.opname in _LEFT_OUT:
            continue
        if is_class and each.opname == "STORE_NAME" and each.argval in _ABOUT_CLASSES:
            last = None
            continue
        if last is not None:
            yield last
        last = each
    if last is not None:
        yield last


def _constant(value: Any) -> str:
    """Return a text of a constant that says its type too; of other values only the type."""
    kind = type(value)
    if kind is int:
        return f"int:{value:x}"  # of any length: Python limits the decimal digits
    if kind in _PLAIN:
        return f"{kind.__name__}:{value!r}"
    if kind is CodeType:
        return f"code({chr(1).join(_parts(value))})"
    if kind is tuple:
        return f"({','.join(map(_constant, value))})"
    if kind is frozenset:
        return f"{{{','.join(sorted(map(_constant, value)))}}}"
    return f"{kind.__module__}.{kind.__qualname__}"
