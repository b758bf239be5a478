"""A download of a thousand files over Redis, while its consumers and the server are killed at random."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from nearfar.cli.exits import Exit
from tests.download.trade.commands import Commands, ended
from tests.support import redis_server
from tests.support.counting import Counting
from tests.support.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300), redis_server.needed]
FILES, FAULTS, LAST = 1000, 6, 50
PATIENCE = 100.0


def there(server: redis_server.Server, consumers: list[subprocess.Popen[str]]) -> bool:
    """Whether all these have come to the queue. Who comes after the end waits for the next producer."""
    import redis

    with suppress(redis.ConnectionError), redis.Redis(port=server.port) as client:
        names = [name.decode() for name in client.hkeys("nearfar:{pictures}:members")]
        return all(any(f"-{process.pid}-" in name for name in names) for process in consumers)
    return False


@pytest.mark.seeds("1-2")
def test_every_file_is_saved_once_and_all_programs_end(tmp_path: Path, seed: int) -> None:
    """Given a server that syncs before it replies; the last urls come once all consumers are there."""
    dice = Random(seed)
    with redis_server.running(*redis_server.DURABLE) as server, Counting(delay=0.002) as web:
        commands = Commands(tmp_path, server.address("pictures"))
        urls = [web.url(f"/{number}.txt\n").encode() for number in range(FILES)]
        os.mkfifo(tmp_path / "urls")
        given = os.open(tmp_path / "urls", os.O_RDWR)
        try:
            consumers = [commands.join("-o", "saved") for _ in range(2)]
            producer = commands.start("producer", "--queue", commands.address, "-i", "urls")
            os.write(given, b"".join(urls[:-LAST]))
            for moment in sorted(dice.sample(range(30, FILES - LAST), FAULTS)):
                assert eventually(lambda moment=moment: len(web.times) >= moment, PATIENCE), moment
                if dice.random() < 0.5:
                    server.kill()
                    server.start()
                else:
                    consumers.pop(dice.randrange(2)).kill()
                    consumers.append(commands.join("-o", "saved"))
            assert eventually(lambda: there(server, consumers), PATIENCE)
            os.write(given, b"".join(urls[-LAST:]))
            os.close(given)
            code, said = ended(producer)
            found = re.fullmatch(r"1,000 urls: ([\d,]+) saved, ([\d,]+) already there, 0 failed", said)
            assert (code, found is not None) == (Exit.OK, True), said
            assert sum(int(number.replace(",", "")) for number in found.groups()) == FILES
            assert [ended(consumer)[0] for consumer in consumers] == [Exit.OK] * 2
        finally:
            with suppress(OSError):
                os.close(given)
            commands.close()
        names = sorted(path.name for path in (tmp_path / "saved").glob("[!.]*"))
        assert names == sorted(f"{number}.txt" for number in range(FILES))
