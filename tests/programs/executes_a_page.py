"""Executes the blocks of a page one after the other as one module, each at its own lines.

Arguments: the page, and the pattern of a block.
"""

import re
import sys
import types
from pathlib import Path

page, pattern = sys.argv[1:]
text = Path(page).read_text(encoding="utf-8")
module = types.ModuleType("page")
sys.modules["page"] = module
for block in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
    lines_before = text.count("\n", 0, block.start(1))
    exec(compile("\n" * lines_before + block[1], page, "exec"), vars(module))
