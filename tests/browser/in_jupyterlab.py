"""The display in JupyterLab, in a headless Chromium, in a light and in a dark theme.

No run of all tests contains it: ``pytest tests/browser/in_jupyterlab.py``, where jupyterlab and
playwright are installed, and Chromium as Debian has it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import DEADLINE_S, ENVIRONMENT

pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
browsers = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

OPTIONS = ["--no-browser", "--allow-root", "--port=0", "--IdentityProvider.token="]

CELLS = [
    """
import time, durably
@durably.job("crawl <b>$x$</b>")
def crawl(step):
    for number in range(20):
        step.run(f"page-{number}", time.sleep, 0.1)
        step.progress(number + 1, 20)
        if number == 9 and step.attempt == 1:
            raise ValueError("<script>document.title = 'bad'</script>")
app = durably.Durably("nb.db")
""",
    "try: app.run(crawl, key='c')\nexcept durably.RunFailedError: pass",
    "run = app.run(crawl, key='c')",
]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of a notebook in a server of its own."""
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"cell-{number}",
            "metadata": {},
            "outputs": [],
            "source": source.strip(),
        }
        for number, source in enumerate(CELLS)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "book.ipynb").write_text(json.dumps(book), encoding="utf-8")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *OPTIONS],
        cwd=tmp_path,
        env={**ENVIRONMENT, "JUPYTER_CONFIG_DIR": str(tmp_path), "HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stderr is not None
        found = None
        while found is None:
            line = server.stderr.readline()
            assert line, "the server has ended"
            found = re.search(r"http://(localhost|127\.0\.0\.1):\d+", line)
        yield f"{found[0]}/lab/tree/book.ipynb"
    finally:
        server.terminate()
        server.communicate(timeout=DEADLINE_S)


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_the_bar_has_its_colours_in_each_theme(address: str, theme: str, tmp_path: Path) -> None:
    """Grey for what came from checkpoints, blue for what is new; names are text, no formulas."""
    with browsers.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.goto(address)
        page.wait_for_selector(".jp-Notebook .jp-Cell .cm-content")
        page.click("text=Settings")
        page.hover("text=Theme")
        page.click(f"text={theme}")
        page.wait_for_selector(f'body[data-jp-theme-name="{theme}"]', state="attached")
        page.click(".jp-Notebook .jp-Cell .cm-content")
        page.click("#jp-MainMenu >> text=Run")
        page.click("text=Run All Cells >> nth=0")
        done = page.locator(".durably-progress", has_text="completed")
        done.wait_for(timeout=60_000)
        failed = page.locator(".durably-progress", has_text="failed")

        assert failed.inner_text().startswith("crawl <b>$x$</b>")
        assert "10/20 · " in failed.inner_text()
        assert "20/20 · 10 from checkpoints · " in done.inner_text()
        paints = "nodes => nodes.map(node => [node.style.width, node.style.backgroundColor])"
        bars = done.locator('[role="progressbar"] span').evaluate_all(paints)
        assert bars == [["50%", "rgb(144, 164, 174)"], ["50%", "rgb(25, 118, 210)"]]
        style = "node => getComputedStyle(node).color"
        is_dark = done.evaluate(style) != "rgba(0, 0, 0, 0.87)"
        assert is_dark == (theme == "JupyterLab Dark")
        assert page.title() != "bad"
        folder = Path(os.environ.get("DURABLY_SCREENSHOTS", tmp_path))
        page.screenshot(path=folder / f"{theme}.png")
        browser.close()
