"""Named points in a command at which it can kill or freeze itself, wrapped around its methods from outside.

A point is armed by a file in the run's folder: ``7.json`` with ``{"point": "renamed", "nth": 2, ...}``. The
process that reaches it for the nth time moves the file away, so a restarted process is not affected again.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = ("synced", "intended", "placed", "renamed", "recorded", "done")
"""Of a commit: after the files' fsync, the intent, each name, all names, the rows, and before the ack."""

POINTS = {
    "asked what is known": ("nearfar.download.store.store:Store.known", "after"),
    "sweeping": ("nearfar.download.store.owners:sweep", "before"),
    "draft open": ("nearfar.download.store.store:Store.open", "after"),
    "draft written": ("nearfar.download.store.draft:Draft.write", "after"),
    "draft finished": ("nearfar.download.store.draft:Draft.finish", "after"),
    "before fsync": ("nearfar.download.store.commit:Committer._sync", "before"),
    "received": ("nearfar.download.consumer:Consumer._handle", "before"),
    "answered": ("nearfar.download.consumer:Consumer._commit", "after"),
    "offering": ("nearfar.download.remote_stores:RemoteStores.offer", "before"),
    "offered": ("nearfar.download.remote_stores:RemoteStores._conclude", "before"),
    "fetched": ("nearfar.download.producer:TransferSink.done", "before"),
    "putting": ("nearfar.download.outgoing:RequestQueue._hand_over", "before"),
    "put": ("nearfar.download.outgoing:RequestQueue._hand_over", "after"),
    "settled": ("nearfar.download.producer:Producer.ended", "before"),
    "leaving": ("nearfar.download.far_transport:FarRequestSender.close", "before"),
    "left": ("nearfar.download.far_transport:FarRequestSender.close", "after"),
    "failed": ("nearfar.download.account:Failures.add", "after"),
    "host hears": ("nearfar.queues.broker.protocol:BrokerProtocol.receive", "before"),
    "host says": ("nearfar.queues.broker.protocol:BrokerProtocol.flush", "after"),
    "coordinator hears": ("nearfar.coordinator.scheduler:Scheduler.answered", "before"),
    "coordinator says": ("nearfar.coordinator.scheduler:Scheduler.flush", "after"),
    "agent acts": ("nearfar.worker.agent:Agent._act", "before"),
    "agent hears": ("nearfar.worker.agent:Agent.answered", "before"),
    "share begins": ("nearfar.download.producer:Producer.run", "before"),
    "share ends": ("nearfar.download.producer:Producer.run", "after"),
    "share handed out": ("nearfar.download.pooled:Pooled._hand_out", "after"),
    "share came back": ("nearfar.download.pooled:Pooled._end", "before"),
    "file whole": ("nearfar.download.local_store:LocalStore.add", "before"),
    "file ended": ("nearfar.download.local_process:PipeJobs.end", "before"),
    "committed": ("nearfar.download.local_store:LocalStore.commit", "after"),
    "near starts": ("nearfar.download.local:LocalDownload._start", "after"),
    "near feeds": ("nearfar.download.local:LocalDownload._feed", "before"),
    "near hears": ("nearfar.download.local:LocalDownload._hear", "before"),
}
"""Where each is, and whether it is before or after the call."""


def arm(folder: Path, role: str) -> None:
    """Wrap the methods of the points that are armed for `role` in `folder`."""
    for armed in sorted((folder / "armed").glob("*.json")):
        try:
            mine = json.loads(armed.read_text())
        except FileNotFoundError:  # it has just struck another process
            continue
        if mine["role"] == role:
            _wrap(mine["point"], _Strike(armed, folder / "struck", mine["nth"], mine["kind"]))


class _Strike:
    """Counts how often its point is reached, and kills or stops this process at the nth time."""

    def __init__(self, armed: Path, struck: Path, nth: int, kind: str) -> None:
        self._armed = armed
        self._struck = struck
        self._left = nth
        self._signal = signal.SIGKILL if kind == "kill" else signal.SIGSTOP

    def __call__(self) -> None:
        self._left -= 1
        if self._left:
            return
        try:
            self._armed.rename(self._struck / f"{self._armed.stem} {os.getpid()}")
        except FileNotFoundError:
            return
        os.kill(os.getpid(), self._signal)


def _wrap(point: str, strike: Callable[[], None]) -> None:
    if point in STEPS:
        _wrap_step(point, strike)
        return
    place, when = POINTS[point]
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *above, name = path.split(".")
    for part in above:
        owner = getattr(owner, part)
    before = getattr(owner, name)

    @functools.wraps(before)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        if when == "before":
            strike()
        result = before(*arguments, **options)
        if when == "after":
            strike()
        return result

    setattr(owner, name, wrapped)


def _wrap_step(step: str, strike: Callable[[], None]) -> None:
    from nearfar.download.store.commit import Committer

    before = Committer.__init__

    def wrapped(self: Committer, *arguments: Any) -> None:
        before(self, *arguments)
        told = self._step

        def tell(name: Any) -> None:
            told(name)
            if name == step:
                strike()

        self._step = tell

    Committer.__init__ = wrapped  # type: ignore[method-assign]
