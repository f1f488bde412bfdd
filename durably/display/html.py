"""The HTML that shows a frame in a notebook: no script, no style sheet, colours for any theme."""

from __future__ import annotations

from html import escape
from typing import Final

from durably._platform.displayable import displayable
from durably._platform.spans import limited_text, span
from durably.display.line import counted, fractions, number, rate_text, said_of_death
from durably.display.meter import Frame, Shown
from durably.execution.live import RunView
from durably.rendering.cells import COLOURS

# As in tables and cards, and of what only a display shows.
_COLOURS: Final = {
    **COLOURS,
    "pending": "#8a6d00",
    "waiting": "#8a6d00",
    "stopped": "#b25b00",
    "open": "#6d6d6d",
}
_REUSED: Final = "#90a4ae"
_OPEN: Final = "rgba(128,128,128,0.25)"
_DONE: Final = "#1976d2"
# Several runs: so many of them are shown below the totals.
_MOST_RUNS: Final = 8
_DOT: Final = " · "


def html_of(frame: Frame) -> str:
    """Return the HTML of a frame. All names, keys and messages in it are escaped."""
    view = frame.view
    if not view.is_several:
        lines = [_run(each) for each in frame.runs]
    else:
        as_run = RunView("", "", done=view.done, total=view.total, failed=view.failed, unit="")
        shown = Shown(as_run, frame.elapsed_s, frame.rate, frame.left_s)
        lines = [f"{_bar(as_run)}{_DOT.join([f'{_text(counted(as_run))} runs', *_details(shown)])}"]
        if not frame.is_last:
            lines += [_run(each) for each in frame.runs[:_MOST_RUNS]]
    if frame.totals is not None:
        lines += [_text(line, 400) for line in frame.totals.splitlines()[1:]]
    inside = "".join(f"<div>{line}</div>" for line in lines)
    return (
        '<div class="durably-progress tex2jax_ignore mathjax_ignore" style="font-family:sans-serif;'
        f'font-size:13px;line-height:1.7;overflow:hidden">{inside}</div>'
    )


def _run(shown: Shown) -> str:
    run = shown.run
    colour = _COLOURS.get(run.status, _COLOURS["running"])
    key = "" if run.key is None else f' title="{escape(displayable(run.key))}"'
    name = f"<b{key}>{_text(run.name, 80)}</b>"
    badge = (
        f'<span style="background-color:{colour};color:#fff;border-radius:9px;'
        f'padding:1px 8px;margin:0 5px">{_text(run.status)}</span>'
    )
    parts = _details(shown)
    if run.total is not None or run.done:
        parts = [_text(counted(run)), *parts]
    return f"{name}{badge}{_bar(run)}{_DOT.join(parts)}"


def _details(shown: Shown) -> list[str]:
    run = shown.run
    parts = []
    if run.reused:
        parts.append(f"{number(run.reused)} from checkpoints {said_of_death(run)}".rstrip())
    if run.failed:
        parts.append(f'<span style="color:{_COLOURS["failed"]}">{run.failed:,} failed</span>')
    is_waiting = run.limited_s >= 1 and not run.is_over
    if is_waiting:
        parts.append(limited_text(run.workers, run.limited_s))
    rate = rate_text(shown)
    if rate is not None and not is_waiting:
        parts.append(rate)
    parts.append(span(shown.elapsed_s))
    if run.is_over:
        return parts
    if shown.left_s is not None and not is_waiting:
        parts.append(f"{span(shown.left_s)} left")
    if run.step is not None:
        parts.append(f"now: <code>{_text(run.step, 80)}</code>")
    if run.message:
        parts.append(_text(run.message, 120))
    return parts


def _bar(run: RunView) -> str:
    found = fractions(run)
    if found is None:
        return ""
    colour = _COLOURS["failed"] if run.status == "failed" else _DONE
    reused, done = (100 * each for each in found)
    spans = "".join(
        f'<span style="display:inline-block;vertical-align:top;height:8px;width:{width:.2f}%;'
        f'background-color:{paint}"></span>'
        for width, paint in ((reused, _REUSED), (done, colour))
    )
    percent = f"{reused + done:.0f}"
    return (
        f'<span role="progressbar" aria-valuenow="{percent}" aria-valuemin="0" '
        f'aria-valuemax="100" title="{percent} %" style="display:inline-block;width:280px;'
        f"max-width:40%;height:8px;border-radius:4px;overflow:hidden;white-space:nowrap;"
        f'font-size:0;background-color:{_OPEN};margin-right:6px">{spans}</span>'
    )


def _text(text: str, width: int = 200) -> str:
    return f"<bdi>{escape(displayable(text, width))}</bdi>" if text else ""
