"""A picture of what was executed when, as SVG."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final, NamedTuple

from durably.rendering import words
from durably.rendering.cells import COLOURS, GREY

MOST_LANES: Final = 50
"""How many steps a picture shows."""

_WIDTH: Final = 900
_LABELS: Final = 200
_TOP: Final = 22
_ROW: Final = 18
_BAR: Final = 12
# Even the shortest step is seen.
_NARROWEST: Final = 1.5
# Where nothing was executed for long, as between two launches, the time is not drawn to scale.
_GAP: Final = 16.0
_MOST_OF_GAPS: Final = 0.3
# The part of the whole from which on a gap is one.
_GAP_PART: Final = 0.05
_TEXT: Final = "#808080"
_LABEL_WIDTH: Final = 30
_TITLE_WIDTH: Final = 300
_ROOM_FOR_A_TIME: Final = 90
_MOST_STRETCHES: Final = 100

# What is in Unicode, but not in XML.
_NOT_XML: Final = re.compile("[\ufffe\uffff]")


class Items(NamedTuple):
    """How many items of a map ended at about a certain time."""

    start: float
    completed: int
    failed: int


class Lane(NamedTuple):
    """One step: times are seconds since the epoch, and its end is ``None`` if it goes on."""

    name: str
    status: str
    start: float
    end: float | None
    note: str = ""
    items: Sequence[Items] = ()


class Stretch(NamedTuple):
    """An uninterrupted execution, such as an attempt of a run."""

    name: str
    start: float
    end: float | None


class Timeline:
    """A picture of the steps of a run over time.

    A notebook shows it. It is as the run was when it was made.
    """

    def __init__(
        self,
        name: str,
        lanes: Sequence[Lane],
        stretches: Sequence[Stretch],
        *,
        items_s: float = 0.0,
    ) -> None:
        self._name = name
        self._lanes = lanes
        self._stretches = stretches
        # How much time the numbers of items are for.
        self._items_s = items_s
        self._now = datetime.now(UTC).timestamp()

    def __repr__(self) -> str:
        count = len(self._lanes)
        name = words.text(self._name, _TITLE_WIDTH)
        return f"<Timeline of {name}: {count:,} step{'' if count == 1 else 's'}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture as an SVG file, in place of one that is there.

        .. versionadded:: 0.2.0
        """
        with open(path, "w", encoding="utf-8") as file:
            file.write(self._repr_svg_())

    def _repr_svg_(self) -> str:
        lanes, left_out = _longest(self._lanes, self._now)
        axis = _Axis(self._spans())
        height = _TOP + _ROW * (len(lanes) + (left_out > 0)) + 6
        begin = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="11" '
            f'fill="{_TEXT}"><title>{_escaped(self._name)}</title>'
        )
        parts = [begin, *self._background(axis, height)]
        for place, lane in enumerate(lanes):
            parts += self._lane(lane, axis, _TOP + place * _ROW)
        if left_out:
            y = _TOP + len(lanes) * _ROW + _BAR
            parts.append(f'<text x="0" y="{y}">… {left_out:,} more, which were shorter</text>')
        return "".join([*parts, "</svg>"])

    def _spans(self) -> list[tuple[float, float]]:
        """Return when anything was executed."""
        spans = [(each.start, self._end(each.end)) for each in self._stretches]
        spans += [(each.start, self._end(each.end)) for each in self._lanes]
        for lane in self._lanes:
            spans += [(each.start, each.start + self._items_s) for each in lane.items]
        return spans

    def _end(self, end: float | None) -> float:
        return self._now if end is None else end

    def _background(self, axis: _Axis, height: int) -> Iterable[str]:
        free_from = 0.0
        for stretch in self._stretches[-_MOST_STRETCHES:]:
            start, end = axis.at(stretch.start), axis.at(self._end(stretch.end))
            lasted = words.took(max(0.0, self._end(stretch.end) - stretch.start))
            yield _rect(start, 0, end - start, height, "#808080", 0.12) + _title(
                f"{stretch.name}, {words.exact(_instant(stretch.start))}, {lasted}"
            )
            if start >= free_from:
                # The day and the time, without year, fractions and zone.
                clock = words.exact(_instant(stretch.start))[5:19]
                yield f'<text x="{start + 2:.1f}" y="14">{escape(clock)}</text>'
                free_from = start + _ROOM_FOR_A_TIME

    def _lane(self, lane: Lane, axis: _Axis, y: int) -> Iterable[str]:
        colour = COLOURS.get(lane.status, GREY)
        end = self._end(lane.end)
        start_x, end_x = axis.at(lane.start), axis.at(end)
        took = words.took(max(0.0, end - lane.start))
        note = f": {lane.note}" if lane.note else ""
        yield (
            f'<text x="{_LABELS - 6}" y="{y + _BAR}" text-anchor="end">'
            f"{_escaped(lane.name, _LABEL_WIDTH)}</text>"
        )
        opacity = 0.25 if lane.items else 1.0
        yield _rect(start_x, y + 2, end_x - start_x, _BAR, colour, opacity) + _title(
            f"{lane.name}, {lane.status}, {took}{note}"
        )
        if lane.items:
            yield from self._band(lane, axis, y + 2)

    def _band(self, lane: Lane, axis: _Axis, y: int) -> Iterable[str]:
        """Draw how many items ended when, the failed ones below."""
        most = max(each.completed + each.failed for each in lane.items)
        for each in lane.items:
            x = axis.at(each.start)
            width = axis.at(each.start + self._items_s) - x
            top = float(y + _BAR)
            for count, kind in ((each.failed, "failed"), (each.completed, "completed")):
                if count:
                    # A single failure among thousands is seen.
                    high = max(2.0 if kind == "failed" else 0.5, _BAR * count / most)
                    top -= high
                    yield _rect(x, top, width, high, COLOURS[kind], 1.0) + _title(
                        f"{count:,} {kind} at {words.exact(_instant(each.start))}"
                    )


class _Axis:
    """Where a time is, from left to right; long gaps are cut short."""

    def __init__(self, spans: Sequence[tuple[float, float]]) -> None:
        merged = _merged(spans) or [(0.0, 0.0)]
        whole = merged[-1][1] - merged[0][0]
        busy = sum(end - start for start, end in merged)
        # A gap that is short beside what was executed is drawn to scale.
        parts = [merged[0]]
        for start, end in merged[1:]:
            if start - parts[-1][1] <= _GAP_PART * busy:
                parts[-1] = (parts[-1][0], end)
            else:
                parts.append((start, end))
        room = float(_WIDTH - _LABELS - 4)
        gaps = len(parts) - 1
        gap = min(_GAP, room * _MOST_OF_GAPS / gaps) if gaps else 0.0
        drawn = sum(end - start for start, end in parts)
        scale = (room - gap * gaps) / drawn if drawn > 0 and whole > 0 else 0.0
        # Each part with where it begins.
        self._parts: list[tuple[float, float, float]] = []
        x = float(_LABELS)
        for start, end in parts:
            self._parts.append((start, end, x))
            x += (end - start) * scale + gap
        self._scale = scale

    def at(self, when: float) -> float:
        """Return the place of a time."""
        place = float(_LABELS)
        for start, end, x in self._parts:
            if when < start:
                break
            place = x + (min(when, end) - start) * self._scale
        return place


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the spans in their order, those that overlap as one."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted((start, max(start, end)) for start, end in spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _longest(lanes: Sequence[Lane], now: float) -> tuple[Sequence[Lane], int]:
    """Return the lanes to draw, in their order, and how many are left out.

    Those that have not completed are drawn first, then those that took longest.
    """
    if len(lanes) <= MOST_LANES:
        return lanes, 0

    def weight(place: int) -> tuple[bool, float]:
        lane = lanes[place]
        return lane.status != "completed", (now if lane.end is None else lane.end) - lane.start

    kept = sorted(range(len(lanes)), key=weight, reverse=True)[:MOST_LANES]
    return [lanes[place] for place in sorted(kept)], len(lanes) - MOST_LANES


def _rect(x: float, y: float, width: float, height: float, colour: str, opacity: float) -> str:
    """Return the beginning of a rectangle, which ``_title`` ends."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(_NARROWEST, width):.1f}" '
        f'height="{height:.1f}" fill="{colour}" fill-opacity="{opacity}">'
    )


def _title(text: str) -> str:
    return f"<title>{_escaped(text)}</title></rect>"


def _escaped(text: str, width: int = _TITLE_WIDTH) -> str:
    return _NOT_XML.sub("\ufffd", escape(words.text(text, width)))


def _instant(when: float) -> datetime:
    return datetime.fromtimestamp(when, UTC)
