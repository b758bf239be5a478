"""Tests and files that the documents name exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PROOF = re.compile(r"`(?:tests/)?((?:[a-z0-9_]+/)*test_\w+\.py)(?:::(\w+))?`")
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "SECURITY.md"])


@cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_every_test_that_a_page_names_exists() -> None:
    found = [(page, *proof) for page in PAGES for proof in PROOF.findall(page.read_text(encoding="utf-8"))]
    missing = [f"{page.name}: {file}::{name}" for page, file, name in found if not is_there(file, name)]
    assert missing == []


def is_there(file: str, name: str) -> bool:
    """Below ``tests/``, or in the page about downloads below ``tests/download/``."""
    paths = [path for path in (TESTS / file, TESTS / "download" / file) if path.exists()]
    return any(not name or name in functions(path) for path in paths)


def test_every_page_that_a_page_links_to_exists() -> None:
    missing = []
    for page in PAGES:
        links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        missing += [(page, link) for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_every_source_file_that_a_page_names_exists() -> None:
    package = ROOT / "src" / "nearfar"
    places = (ROOT, package, package / "download", ROOT / "src", TESTS)
    missing = []
    for page in PAGES:
        found = re.findall(r"`((?:[a-z0-9_]+/)+(?!test_)\w+\.py)`", page.read_text(encoding="utf-8"))
        missing += [(page, file) for file in found if not any((place / file).exists() for place in places)]
    assert missing == []


@cache
def methods() -> dict[str, tuple[frozenset[str], tuple[str, ...]]]:
    """The methods and the bases of each class of the package, by the class's name."""
    found = {}
    for path in (ROOT / "src" / "nearfar").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                own = frozenset(each.name for each in node.body if isinstance(each, ast.FunctionDef))
                found[node.name] = own, tuple(each.id for each in node.bases if isinstance(each, ast.Name))
    return found


def has_method(kind: str, method: str) -> bool:
    own, bases = methods().get(kind, (frozenset(), ()))
    return method in own or any(has_method(base, method) for base in bases)


@pytest.mark.parametrize("page", ["design.md", "decisions.md", "map.md"])
def test_every_method_that_it_names_exists(page: str) -> None:
    """In the drawings ``Class.method -> Class.method``, and in text between single backticks."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    drawings = "\n".join(re.findall(r"```\n(.*?)```", text, re.DOTALL))
    found = re.findall(r"\b([A-Z]\w+)\.([a-z_]\w*)\b", drawings)
    found += re.findall(r"`([A-Z]\w+)\.([a-z_]\w*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    assert found
    assert [f"{kind}.{method}" for kind, method in found if not has_method(kind, method)] == []


def test_the_page_of_the_contrast_is_whole_and_small() -> None:
    page = ROOT / "docs" / "_extra" / "nearfar-contrast.html"
    text = page.read_text(encoding="utf-8")
    assert text.endswith("</html>\n") and "The contestants" in text
    assert page.stat().st_size < 300_000


def test_every_promise_names_its_proof() -> None:
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "proved by" not in line]
    assert len(rows) > 40
    assert [row for row in rows if not (PROOF.search(row) or "`nearfar contrast`" in row)] == []
