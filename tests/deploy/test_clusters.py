"""The files for Slurm, systemd and Kubernetes: valid command lines, valid schemas, and that they work."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nearfar.cli import parser_of
from tests.pool.pools import coordinated
from tests.support.shell import ROOT

DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.stem != "kustomization")
LIMIT = 40.0


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_starts_a_valid_command(unit: Path) -> None:
    found = re.search(r"^ExecStart=\S+/nearfar (\S+) (.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    assert unit.stem == f"nearfar-{found[1]}"
    parser_of(found[1]).parse_args(shlex.split(found[2]))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_accepts_a_unit(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text(encoding="utf-8").replace("/opt/nearfar/bin/nearfar", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=LIMIT
    )
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_a_container_starts_a_valid_command(manifest: Path) -> None:
    text = manifest.read_text(encoding="utf-8")
    for line in re.findall(r"(?:args|command): \[(.*?)\]", text):
        words = [word.strip(' "') for word in line.split(",")]
        program, *options = words[1:] if words[0] == "nearfar" else words
        parser_of(program).parse_args(options)
    assert "args: [" in text or manifest.stem == "namespace"


@pytest.mark.deploy
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_follows_the_published_schema(manifest: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    yaml = pytest.importorskip("yaml")
    documents = list(yaml.safe_load_all(manifest.read_text(encoding="utf-8")))
    assert documents
    for document in documents:
        validate.validate(json.loads(json.dumps(document)), validate.latest_version(), strict=True)


def test_keys_copied_as_in_a_pod_are_accepted(tmp_path: Path) -> None:
    """Secret volumes are readable by the group; the copy that the init container makes is not."""
    made = tmp_path / "made"
    nearfar = [sys.executable, "-m", "nearfar"]
    subprocess.run([*nearfar, "keys", "init", "--keys", made], check=True, timeout=LIMIT, capture_output=True)
    (tmp_path / "secret").mkdir()
    for name in made.glob("*.key*"):
        Path(shutil.copy(name, tmp_path / "secret")).chmod(0o440)
    text = (DEPLOY / "kubernetes" / "coordinator.yaml").read_text(encoding="utf-8")
    script = text.partition("- |\n")[2].partition("          securityContext")[0]
    for there, here in (
        ("/keys", tmp_path / "keys"),
        ("/secret", tmp_path / "secret"),
        ("/clients", made / "clients"),
    ):
        script = re.sub(rf"(?<![\w/]){there}(?=[/ \n])", str(here), script)
    (tmp_path / "keys").mkdir(mode=0o777)
    subprocess.run(["sh", "-ec", script], check=True, timeout=LIMIT)
    listed = subprocess.run(
        [*nearfar, "keys", "list", "--keys", tmp_path / "keys" / "service"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "local" in listed.stdout


def test_the_slurm_script_runs_a_worker_that_ends_at_the_signal(tmp_path: Path) -> None:
    script = DEPLOY / "slurm" / "workers.sbatch"
    missing = subprocess.run(
        ["sh", script], env={"PATH": os.environ["PATH"]}, capture_output=True, timeout=LIMIT
    )
    assert missing.returncode != 0
    assert b"NEARFAR_CONNECT" in missing.stderr
    with coordinated(0) as address:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "NEARFAR_CONNECT": address,
            "SLURM_CPUS_PER_TASK": "2",
        }
        worker = subprocess.Popen(
            ["sh", script],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        with worker:
            assert worker.stderr is not None
            first = worker.stderr.readline()
            worker.send_signal(signal.SIGTERM)
            rest = worker.stderr.read()
        assert first.startswith("joined the coordinator")
        assert "stopped" in rest
