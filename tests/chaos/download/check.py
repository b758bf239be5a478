"""Checks after a run: a producer's counts, repeated requests, and leftovers."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

from nearfar.cli.exits import Exit
from tests.chaos.download.commands import Ended
from tests.chaos.download.served_files import Ware, Wares
from tests.chaos.download.watch import OWN, Watch
from tests.support.web import Web

ACCOUNT = re.compile(r"([\d,]+) urls?: ([\d,]+) saved, ([\d,]+) already there, ([\d,]+) failed(?: \((.*)\))?")
OVERTAKEN = 3.0
"""Seconds after a blow in which a file may be asked for that was saved meanwhile: the dead had put it."""


def check_producer(ended: Ended, wares: Wares, share: list[Ware], folder: Path) -> tuple[int, int]:
    """Check the counts of a producer that ended; returns the numbers of saved and already present files."""
    found = ACCOUNT.match(ended.out)
    assert found, f"{ended.role} ended with {ended.code} and {ended.out!r}: {ended.err}"
    urls, saved, already, failed = (int(number.replace(",", "")) for number in found.groups()[:4])
    listed = [line for line in wares.lines(share) if line and not line.startswith("#")]
    fails = Counter({"rejected": 1})
    for line in listed:
        path = "/" + line.partition("\t")[0].rpartition("/")[2]
        fails.update(ware.fails for ware in share if ware.path == path and ware.fails)
    told = dict(each.rsplit(" ", 1) for each in (found[5] or "").split(", ") if each)
    assert {reason: int(count.replace(",", "")) for reason, count in told.items()} == fails, (
        ended.out + ended.err[-1000:]
    )
    assert (urls, saved + already, failed) == (len(listed), len(listed) - fails.total(), fails.total()), (
        ended.out
    )
    assert ended.code == Exit.FAILED
    noted = (folder / f"{ended.role} failures.txt").read_text().splitlines()
    assert len(noted) == 1 + sum(bool(ware.fails) for ware in share), noted
    return saved, already


def check_requests(web: Web, watch: Watch, struck_at: float, figures: Counter[str]) -> None:
    """No saved file is requested again, except files in transit at a process's death."""
    for request in web.log:
        late = request.at - watch.saved_at.get(request.path, float("inf"))
        if late > 0:
            figures["asked for after it was saved"] += 1
            assert request.at < struck_at + OVERTAKEN, (
                f"{request.path} was asked for {late:.2f} s after it was saved"
            )


def check_end(folder: Path, watch: Watch, wares: Wares, *, agents: bool) -> None:
    """Exactly the expected files exist, complete and in the manifest. `agents`: whether agents may have been
    killed."""
    watch.look()
    saved = folder / "saved"
    files = {path.relative_to(saved).as_posix(): path for path in saved.rglob("*") if path.is_file()}
    own = {name for name in files if Path(name).name.startswith(OWN)}
    assert own - {f"{OWN}.sqlite", f"{OWN}.sqlite-wal", f"{OWN}.sqlite-shm"} == set(), f"left over: {own}"
    expected = wares.saved()
    assert files.keys() - own == expected.keys()
    rows = {name: (len(ware.body), hashlib.sha256(ware.body).hexdigest()) for name, ware in expected.items()}
    assert watch.rows() == rows
    assert all(files[name].read_bytes() == ware.body for name, ware in expected.items())
    assert watch.intents() == 0
    left = [path.name for path in (folder / "temporary").iterdir()]
    # A killed agent's server that forks leaves multiprocessing's own folder with its socket.
    assert [name for name in left if not (agents and name.startswith("pymp-"))] == [], left
    kept = {"armed", "struck", "said", "saved", "temporary", "clock"}
    rest = {path.name for path in folder.iterdir()} - kept
    assert not {name for name in rest if not re.fullmatch(r"producer \d( failures)?\.txt", name)}, rest
