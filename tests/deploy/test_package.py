"""The distributions: wheel and sdist are built, inspected, and tried in an empty environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

import nearfar
from tests.support.shell import ROOT

LIMIT = 240.0
"""Seconds that one order may take, downloads from the package index included."""
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""Python 3.11 has the option from 3.11.4 on."""
NOT_PACKED = {".editorconfig"}
SMOKE = """
from multiprocessing import Process
from nearfar import Pool, Queue

def double(number):
    return 2 * number

def move(here, there):
    for item in iter(here.get, None):
        there.put(double(item))

if __name__ == "__main__":
    for address in (None, "tcp://127.0.0.1:*"):
        here, there = (Queue(5, address) if address else Queue(5) for _ in range(2))
        process = Process(target=move, args=(here, there))
        process.start()
        for item in (1, 2, 3, None):
            here.put(item)
        print(*(there.get(timeout=30) for _ in range(3)))
        process.join()
        here.close()
        there.close()
    with Pool(2) as pool:
        print(*pool.map(double, range(4)))
"""

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(2 * LIMIT)]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the sdist, by kind."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("packages are built from a clone")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT))
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


def run(*words: str, cwd: Path | None = None, code: int = 0) -> str:
    """The output of a command, which must end with `code`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        words, cwd=cwd, env=environment, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=LIMIT,
    )  # fmt: skip
    assert ended.returncode == code, ended.stdout
    return ended.stdout


def test_the_wheel_holds_the_package_and_nothing_else(packages: dict[str, Path]) -> None:
    names = set(ZipFile(packages["wheel"]).namelist())
    info = f"nearfar-{nearfar.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"nearfar", info}
    sources = ROOT / "src" / "nearfar"
    tracked = run("git", "ls-files", cwd=sources).splitlines()
    assert {name for name in names if name.startswith("nearfar/")} == {f"nearfar/{each}" for each in tracked}
    assert {f"{info}/{name}" for name in ("METADATA", "entry_points.txt", "licenses/LICENSE")} <= names


def test_the_sdist_holds_all_of_the_clone(packages: dict[str, Path]) -> None:
    with tarfile.open(packages["sdist"]) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    tracked = set(run("git", "ls-files", cwd=ROOT).splitlines())
    assert packed == tracked - NOT_PACKED | {"PKG-INFO"}


def test_the_tests_of_the_sdist_are_found(packages: dict[str, Path], tmp_path: Path) -> None:
    with tarfile.open(packages["sdist"]) as archive:
        archive.extractall(tmp_path, **SAFELY)
    (root,) = tmp_path.iterdir()
    said = run(sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", cwd=root)
    found = re.search(r"(\d+)(/\d+)? tests collected", said)
    assert found is not None and int(found[1]) > 1000, said[-2000:]


def test_the_package_index_can_show_them(packages: dict[str, Path]) -> None:
    """Twine reads the metadata as the index does. Links of the README lead to the repository's web page."""
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, packages.values()))
    archive = ZipFile(packages["wheel"])
    metadata = archive.read(f"nearfar-{nearfar.__version__}.dist-info/METADATA").decode()
    links = re.findall(r"\]\(([^)]+)\)", metadata)
    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []
    assert {link.partition("/blob/main/")[2] for link in links} >= {"docs/start.md", "SECURITY.md"}


SCHEMAS = {
    "github-workflows": ".github/workflows/*.yml",
    "github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
    "github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "dependabot": ".github/dependabot.yml",
    "citation-file-format": "CITATION.cff",
    "compose-spec": "docker-compose.yml",
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_for_the_forge_follow_their_schema(schema: str) -> None:
    files = sorted(map(str, ROOT.glob(SCHEMAS[schema])))
    assert files
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *files)


def test_the_citation_and_the_changelog_name_this_version() -> None:
    """Of a version that is not published yet, the changelog has no date."""
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = re.search(r"^version: (\S+)$", cited, re.MULTILINE)
    dated = re.search(r'^date-released: "(\S+)"$', cited, re.MULTILINE)
    assert version is not None and dated is not None
    assert nearfar.__version__.partition(".dev")[0] == version[1]
    if version[1] == nearfar.__version__:
        assert f"\n## [{version[1]}] - {dated[1]}\n" in changes


def test_the_badges_are_those_of_workflows_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    workflows = re.findall(r"actions/workflows/([\w.]+)/badge\.svg", readme)
    assert workflows
    assert [name for name in workflows if not (ROOT / ".github" / "workflows" / name).exists()] == []
    (tested,) = re.findall(r"badge/python-(\S+)-blue", readme)
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    in_tox = re.findall(r"^    py3(\d+): ", (ROOT / "tox.ini").read_text(), re.MULTILINE)
    assert tested.split("_%7C_") == named == [f"3.{minor}" for minor in in_tox]


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_works_where_nothing_else_is_installed(
    kind: str, packages: dict[str, Path], tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python, command = (str(tmp_path / "venv" / "bin" / name) for name in ("python", "nearfar"))
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")

    run(*install, str(packages[kind]))
    assert run(command, "--version") == f"nearfar {nearfar.__version__}\n"
    assert "made a service's keys" in run(command, "keys", "init", cwd=tmp_path)
    (tmp_path / "smoke.py").write_text(SMOKE)
    assert run(python, "smoke.py", cwd=tmp_path) == "2 4 6\n2 4 6\n0 2 4 6\n"
    bare = run(command, "producer", "http://127.0.0.1:1/x", cwd=tmp_path, code=2)
    assert "pip install 'nearfar[download]'" in bare
    assert "pip install 'nearfar[contrast]'" in run(command, "contrast", cwd=tmp_path, code=2)

    run(*install, f"{packages[kind]}[download]")
    download(command, tmp_path)


def download(command: str, folder: Path) -> None:
    """Serve a gallery with this installation, and download all of it."""
    said = folder / "gallery.txt"
    with said.open("w") as log, subprocess.Popen(
        [command, "gallery", "--bind", "127.0.0.1:0", "--count", "5"], stderr=log
    ) as gallery:  # fmt: skip
        try:
            while not (found := re.search(r"http://[\d.:]+", said.read_text())):
                assert gallery.poll() is None, said.read_text()
            urls = [f"{found[0]}/images/{number:04}.png" for number in range(1, 6)]
            run(command, "producer", "--queue", "local", "-o", "files", *urls, cwd=folder)
            verified = run(command, "verify", f"{found[0]}/digests.txt", "files", cwd=folder)
            assert "5 of 5 urls saved and verified" in verified
        finally:
            gallery.terminate()
