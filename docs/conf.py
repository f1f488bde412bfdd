"""How Sphinx builds these pages into a site; ``.ci/run`` does it, with every warning an error.

The build needs no network: notebooks keep their outputs, and names of other projects are no links.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

import durably

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "durably"
author = "The durably authors"
copyright = author  # noqa: A001 - the name that Sphinx reads
release = version = durably.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_title = f"durably {release}"
html_static_path: list[str] = []

# The outputs that stand in a notebook are shown; a test executes it.
nb_execution_mode = "off"
nb_merge_streams = True
myst_heading_anchors = 4
myst_enable_extensions = ["fieldlist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_display_short_literal_types = True
python_use_unqualified_type_names = True
add_module_names = False

# Of the names that annotations contain, those that are public must be links. Others need not be:
# those of other projects, and those of type variables and of what only durably makes.
nitpick_ignore_regex = [(r"py:.*", r"(?!durably\.\w+$).*")]

_MADE_BY_DURABLY = {
    "durably.JobHandle",
    "durably.MapResult",
    "durably.Session",
    "durably.StepContext",
}


def _public_name(target: str) -> str:
    """Return the public name of what an annotation names by the module that defines it."""
    name = target.rpartition(".")[2]
    return f"durably.{name}" if name in durably.__all__ else target


def _resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """Link what an annotation names to the public name of it; what is not public is no link."""
    target: Any = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("durably."):
        return None
    public = _public_name(target)
    if public == target:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, contnode)


def _without_arguments(
    _app: Sphinx,
    _what: str,
    name: str,
    _obj: object,
    _options: object,
    _signature: str | None,
    returns: str | None,
) -> tuple[str, str | None] | None:
    """Leave out with which arguments durably makes what only durably makes."""
    return ("", returns) if name in _MADE_BY_DURABLY else None


def _offer_what_is_no_page(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Make links to Markdown outside of this folder downloads: they are no pages of the site."""
    source[0] = re.sub(r"\]\((\.\./[^)#]+\.md)\)", r"](path:\1)", source[0])


def setup(app: Sphinx) -> None:
    """Load each public name, and connect what resolves their other names."""
    for name in durably.__all__:
        getattr(durably, name)
    importlib.import_module("durably.testing")
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-process-signature", _without_arguments)
    app.connect("source-read", _offer_what_is_no_page)
