"""``docker-compose.yml`` without an engine: which services run when, and that their commands are valid."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest

from nearfar.cli import parser_of
from nearfar.queues.redis.address import RedisAddress
from tests.deploy import engine
from tests.deploy.engine import ORDER
from tests.support.shell import ROOT

TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
IN_REDIS = "redis://redis:6379/0/pictures?password-file=/keys/redis/password"
ALWAYS = {"keys", "gallery", "coordinator", "worker"}
HOSTED = {"queue", "consumer", "producer", "report", "end"}
REDIS = {"redis", "redis-consumer", "redis-producer", "redis-report", "redis-end"}


def services() -> dict[str, str]:
    """The lines of each service."""
    block = TEXT.partition("\nservices:\n")[2].partition("\nvolumes:\n")[0]
    found = re.split(r"^  ([a-z-]+):.*\n", block, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def profile(lines: str) -> str:
    found = re.search(r"^    profiles: \[(\w+)\]$", lines, re.MULTILINE)
    return found[1] if found else ""


def command_of(service: str) -> list[str]:
    """The words of a command that is a list, with its anchors resolved, and the defaults of its variables."""
    found = re.search(r"^    command: \[(.*?)\]$", services()[service], re.MULTILINE | re.DOTALL)
    assert found, service
    words = re.findall(r'(?:^|, *\n? *)(?:&[\w-]+ )?("[^"]*"|[^,"\s]+)', found[1])
    return [re.sub(r"\$\{\w+:-(\w+)\}", r"\1", word.strip('"')) for word in words]


def test_a_profile_of_its_own_takes_the_place_of_the_hosted_queue() -> None:
    chosen = {name: profile(lines) for name, lines in services().items()}
    assert {name for name, each in chosen.items() if not each} == ALWAYS
    assert {name for name, each in chosen.items() if each == "hosted"} == HOSTED
    assert {name for name, each in chosen.items() if each == "redis"} == REDIS
    assert len(chosen) == len(ALWAYS | HOSTED | REDIS)
    settings = [line for line in (ROOT / ".env").read_text().splitlines() if not line.startswith("#")]
    assert settings == ["COMPOSE_PROFILES=hosted"]


def test_no_service_of_one_profile_waits_for_one_of_the_other() -> None:
    """Compose refuses a file in which a service depends on one that is switched off."""
    for name, lines in services().items():
        needed = set(re.findall(r"^      ([a-z-]+): \{condition: ", lines, re.MULTILINE))
        own = {"hosted": HOSTED, "redis": REDIS, "": set()}[profile(lines)]
        assert needed <= ALWAYS | own, name


@pytest.mark.parametrize(
    "service", sorted({"gallery", "queue", "coordinator", "worker", "consumer", "redis-consumer"})
)
def test_a_service_starts_a_valid_command(service: str) -> None:
    program, *options = command_of(service)
    parser_of(program).parse_args(options)


def test_the_producers_start_a_valid_command_at_their_own_queue() -> None:
    found = re.search(r"exec nearfar producer (.*?)\n    \w", services()["producer"], re.DOTALL)
    assert found
    line = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", found[1].replace("\\\n", " "))
    for service, queue in (("producer", "tcp://queue:5555"), ("redis-producer", IN_REDIS)):
        parser_of("producer").parse_args(shlex.split(line.replace("$$QUEUE", queue)))
        where = re.search(r"^    environment: \{QUEUE: (.*)\}$", services()[service], re.MULTILINE)
        assert where and where[1].strip('"') == {"producer": queue, "redis-producer": "*in-redis"}[service]


def test_all_who_meet_in_redis_can_read_its_password() -> None:
    words = command_of("redis-consumer")
    assert words[words.index("--queue") + 1] == IN_REDIS
    path = RedisAddress.parse(IN_REDIS).password_file
    folder, _, name = path.rpartition("/")
    assert "> redis/new\n" in services()["keys"] and f"mv redis/new redis/{name}\n" in services()["keys"]
    for service in ("redis", "redis-consumer", "redis-producer", "worker"):
        assert f"keys-redis:{folder}:ro" in services()[service], service


def test_the_server_writes_before_it_replies_and_is_reached_from_inside_only() -> None:
    words = command_of("redis")
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"
    assert f"redis:{options['--dir']}\n" in services()["redis"]
    assert "restart: on-failure" in services()["redis"]
    assert "ports:" not in TEXT


@pytest.mark.deploy
@pytest.mark.skipif(not engine.commands(), reason="there is no docker compose here")
@pytest.mark.parametrize("compose", engine.commands(), ids=" ".join)
@pytest.mark.parametrize("options", [(), ("--profile", "redis")], ids=["default", "redis"])
def test_compose_accepts_the_file(compose: tuple[str, ...], options: tuple[str, ...]) -> None:
    """Compose 1 lists all services, whatever the profile."""
    clean = {name: value for name, value in os.environ.items() if name != "COMPOSE_PROFILES"}
    run = subprocess.run(
        [*compose, *options, "config", "--services"],
        cwd=ROOT, env=clean, capture_output=True, text=True, timeout=ORDER,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    expected = ALWAYS | (REDIS if options else HOSTED)
    assert set(run.stdout.split()) in (expected, ALWAYS | HOSTED | REDIS)
