"""Executes ``invoices.py`` as a script, by ``runpy``."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).with_name("invoices.py")), run_name="__main__")
