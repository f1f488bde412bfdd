"""Print rows: a table on a terminal, plain columns in a pipe, a JSON object or CSV for programs."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import click

from durably._platform.displayable import displayable, escaped
from durably.cli.records import as_json

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

_GAP: Final = 2
# A column is never made narrower than this.
_NARROWEST: Final = 8
_COLORS: Final = {
    "running": "blue",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "interrupted": "yellow",
    "died": "red",
    "hung": "red",
}


class Column(NamedTuple):
    """A column of a table."""

    title: str
    is_right: bool = False
    # Whether it gets narrower on a narrow terminal.
    gives_way: bool = False
    longest: int = 80


def is_terminal() -> bool:
    """Return whether a person reads the output."""
    return sys.stdout.isatty()


def styled(text: str, **style: Any) -> str:
    """Return *text* in a style, where colours are shown."""
    return click.style(text, **style) if is_terminal() and not os.environ.get("NO_COLOR") else text


def colored(status: str, text: str | None = None) -> str:
    """Return a status, or *text*, in the colour of the status."""
    return styled(status if text is None else text, fg=_COLORS.get(status.strip()))


def cells(text: str) -> int:
    """Return how many cells of a terminal a line takes."""
    if text.isascii():
        return len(text)
    wide = ("W", "F")
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in wide else 1
        for char in text
    )


def fitted(text: str, width: int) -> str:
    """Return *text* as one harmless line of at most so many cells."""
    length = width
    shown = displayable(text, length)
    while cells(shown) > width:
        length -= 1
        shown = displayable(text, length)
    return shown


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below the titles of their columns; nothing in a row is acted on by a terminal."""
    shown = [
        [fitted(cell, column.longest) for cell, column in zip(row, columns, strict=True)]
        for row in rows
    ]
    widths = _widths(columns, shown)
    click.echo(styled(_line(columns, widths, [column.title for column in columns]), bold=True))
    for row in shown:
        click.echo(_line(columns, widths, row))


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    widths = [
        max(len(column.title), *(cells(row[place]) for row in rows)) if rows else len(column.title)
        for place, column in enumerate(columns)
    ]
    if is_terminal():
        most = shutil.get_terminal_size().columns
        excess = sum(widths) + _GAP * (len(widths) - 1) - most
        yielding = [place for place, column in enumerate(columns) if column.gives_way]
        while excess > 0 and yielding:
            widest = max(yielding, key=lambda place: widths[place])
            if widths[widest] <= _NARROWEST:
                break
            widths[widest] -= 1
            excess -= 1
    return widths


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> str:
    parts = []
    for column, width, cell in zip(columns, widths, row, strict=True):
        text = fitted(cell, width)
        padding = " " * (width - cells(text))
        text = colored(text) if column.title in ("STATUS", "OUTCOME") else text
        parts.append(f"{padding}{text}" if column.is_right else f"{text}{padding}")
    return (" " * _GAP).join(parts).rstrip()


def print_records(
    form: str | None,
    records: Iterable[R],
    columns: Sequence[Column],
    row: Callable[[R], Sequence[str]],
    names: Sequence[str],
) -> None:
    """Print records as a table, or in the *form* that was asked for.

    Args:
        row: returns what the table shows of a record; a table without rows is not printed.
        names: the attributes that CSV has.
    """
    if form == "json":
        for record in records:
            print_json(record)
    elif form == "csv":
        print_csv(records, names)
    elif rows := [row(record) for record in records]:
        print_table(columns, rows)


# -- for programs ---------------------------------------------------------------------------


def print_json(value: Any) -> None:
    """Print a record, or a dict, as one line; what a terminal would act on is escaped in it."""
    click.echo(json.dumps(as_json(value)))


def print_csv(records: Iterable[Any], names: Sequence[str]) -> None:
    """Print attributes of records as CSV, below their names; what has parts is JSON."""
    # Of a terminal, which would act on what it is sent.
    clean = escaped if is_terminal() else str
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for record in records:
        values = as_json(record)
        writer.writerow([clean(_csv_cell(values[name])) for name in names])


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def formats(function: F) -> F:
    """Add to a verb the options ``--json`` and ``--csv``."""
    function = click.option(
        "--csv", "form", flag_value="csv", help="Print comma-separated values, for a spreadsheet."
    )(function)
    return click.option(
        "--json", "form", flag_value="json", help="Print a JSON object a line, for a program."
    )(function)
