"""The tutorial is true: what it says to do gives what it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from notebooks import Execution, Notebook
from pages import DOCS, follow, paced

pytestmark = pytest.mark.slow


def test_the_tutorial(tmp_path: Path) -> None:
    """Its program is written, killed, failed, fixed and inspected, command by command."""
    follow(DOCS / "tutorial-script.md", tmp_path)


def code_cells() -> list[dict[str, Any]]:
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kept(cell: dict[str, Any]) -> tuple[str, str, str]:
    """What is kept of the last execution of a cell: what it has printed, returned and raised."""
    printed = result = error = ""
    for output in cell["outputs"]:
        match output["output_type"]:
            case "stream":
                printed += "".join(output["text"])
            case "execute_result":
                result = "".join(output["data"]["text/plain"])
            case "error":
                error = f"{output['ename']}: {output['evalue']}"
    return printed, result, error


def shown(cell: Execution) -> tuple[str, str, str]:
    return cell.stdout, cell.result, cell.error


def test_the_tutorial_in_a_notebook(tmp_path: Path) -> None:
    """Its cells give the outputs that are kept, and the same results after a restart."""
    cells = code_cells()
    sources = [paced("".join(cell["source"])) for cell in cells]
    ids = [cell["id"] for cell in cells]

    def without_id(outputs: tuple[str, str, str]) -> tuple[str, str, str]:
        printed, result, error = outputs
        head, mark, tail = result.partition("<Run ")
        return printed, head + mark + tail[26 if mark else 0 :], error

    with Notebook(tmp_path, PACE="0.01") as notebook:
        first = [
            notebook.execute(source, cell_id=i) for source, i in zip(sources, ids, strict=True)
        ]
        notebook.restart()
        again = [
            notebook.execute(source, cell_id=i) for source, i in zip(sources, ids, strict=True)
        ]

    assert [without_id(shown(cell)) for cell in first] == [without_id(kept(cell)) for cell in cells]
    assert sum(bool(cell.error) for cell in first) == 1
    assert [cell.error for cell in again] == [""] * len(cells)
    assert [cell.result for cell in again[-5:]] == [cell.result for cell in first[-5:]]
    assert all(cell.result for cell in first[-5:])  # those from redo() on
    asked = [cell.stdout.count("asking for") for cell in again]
    assert sum(asked) == 6  # by the ordinary loop alone
