"""The documentation site: `make docs` serves it, `tox -e docs` builds it with warnings as errors."""

from __future__ import annotations

import re
from pathlib import Path

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.nodes import make_refnode

import nearfar

project = "nearfar"
version = release = nearfar.__version__
html_title = f"nearfar {version}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_copy_source = False
# nearfar-contrast.html, which docs/contrast.md shows. On a quiet machine with redis-server, this makes it:
# nearfar contrast -o docs/_extra/nearfar-contrast.html
html_extra_path = ["_extra"]
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

# Names in single backticks in docstrings become links where they name a documented object.
default_role = "py:obj"
autoclass_content = "both"  # the arguments are described in __init__
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": False}
python_use_unqualified_type_names = True
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

TOP = Path(__file__).parents[1]
PAGES = {"README": "index", "SECURITY": "security", "CHANGELOG": "changelog", "CONTRIBUTING": "contributing"}
"""Files of the repository's top folder, and the pages that include them."""
REPOSITORY = "https://github.com/nearfar/nearfar/blob/main/"


def as_site(text: str, above: bool) -> str:
    """`text` without badges, and with links that work on the site.

    `above`: it stands in the repository's top folder. A link to a file that does not exist is an error.
    """
    text = re.sub(r"^\[!\[.*\n", "", text, flags=re.MULTILINE)
    # Files of html_extra_path are in the site's top folder; a link of Markdown would lead to a second copy.
    text = re.sub(r"\[([^]]+)\]\((?:docs/)?_extra/([\w.-]+)\)", r'<a href="\2">\1</a>', text)

    def link(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        if "://" in target or target.startswith("#"):
            return found[0]
        path = ((TOP if above else TOP / "docs") / target).resolve()
        if path.is_relative_to(TOP / "docs") and path.suffix == ".md":
            return f"]({path.relative_to(TOP / 'docs')}{anchor})" if above else found[0]
        if not path.exists():
            raise ExtensionError(f"a link leads to {target}, which does not exist")
        inside = path.relative_to(TOP)
        if inside.stem in PAGES and inside.parent == Path():
            return f"]({PAGES[inside.stem]}.md{anchor})"
        return f"]({REPOSITORY}{inside}{anchor})"

    return re.sub(r"\]\(([^)#\s]+)(#[^)]*)?\)", link, text)


def page_read(_app: Sphinx, page: str, source: list[str]) -> None:
    if "/" not in page:
        source[0] = as_site(source[0], above=False)


def file_included(_app: Sphinx, path: Path, _page: str, source: list[str]) -> None:
    if path.suffix == ".md":
        source[0] = as_site(source[0], above=True)


def found_by_its_last_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element
) -> Element | None:
    """A link for `QueueLost` where `nearfar.errors.QueueLost` is documented, if only one ends so. A bare name
    of a method is none: it may be an argument."""
    python = env.domains.python_domain
    if node.get("refdomain") != "py":
        return None
    matches = [name for name in python.objects if name.endswith(f".{node['reftarget']}")]
    if len(matches) != 1:
        return None
    entry = python.objects[matches[0]]
    if "." not in node["reftarget"] and entry.objtype in ("method", "property", "attribute"):
        return None
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, matches[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", page_read)
    app.connect("include-read", file_included)
    app.connect("missing-reference", found_by_its_last_name)
