"""One run: commands work under faults, dead ones are started again; then a last round without faults."""

from __future__ import annotations

import json
import select
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from nearfar.cli.exits import Exit
from tests.chaos.download.check import check_end, check_producer, check_requests
from tests.chaos.download.commands import Ended, RunCommands, said
from tests.chaos.download.plan import LEASE, Blow, Plan
from tests.chaos.download.served_files import Wares
from tests.chaos.download.starter import Starter
from tests.chaos.download.watch import Watch
from tests.support.processes import leaves
from tests.support.web import Web

LIMIT = 100.0
"""Seconds in which the input must be through, and again for the last round."""
GATHERED = 1.8
"""Seconds after which the server keeps nothing back any more, at the earliest."""
NATURAL = 1.5
"""Seconds that consumers have to see the end by themselves, where it may have been lost on the way."""
AGAIN = frozenset({-signal.SIGKILL, Exit.LOST})
"""What makes somebody type a command again."""


def patiently(holds: Callable[[], bool], within: float) -> bool:
    """As `eventually`, without garbage collections: the commands need the processor."""
    until = time.monotonic() + within
    pause = select.poll()
    while not holds():
        if time.monotonic() >= until:
            return False
        pause.poll(15)
    return True


class Run:
    """Everything of one run is below `folder`. Use it once."""

    def __init__(self, plan: Plan, folder: Path, web: Web, starter: Starter) -> None:
        self.plan = plan
        self.figures: Counter[str] = Counter(runs=1)
        self.story: list[str] = []
        self._folder = folder
        self._web = web
        self._starter = starter
        self._dice = Random(plan.seed)
        for name in ("armed", "struck", "said", "saved", "temporary"):
            (folder / name).mkdir()
        self._wares = Wares(plan, web)
        self._shares = dict(zip(self._producers(), self._wares.shares(plan.producers), strict=False))
        if plan.near:
            self._shares = {"producer 1": self._wares.all}
        for role, share in self._shares.items():
            (folder / f"{role}.txt").write_text("\n".join(self._wares.lines(share)))
        for number, mine in enumerate(plan.mines):
            (folder / "armed" / f"{number}.json").write_text(json.dumps(vars(mine)))
        self._watch = Watch(folder / "saved", self._wares.saved())
        self._commands = RunCommands(
            plan, folder, starter, {"TMPDIR": str(folder / "temporary"), "NEARFAR_CHAOS_LEASE": str(LEASE)}
        )
        self._started = time.monotonic()
        self._thaw: list[tuple[float, int]] = []
        self._due: dict[str, float] = {}
        self._done: set[str] = set()
        self._seen: set[str] = set()
        self._struck_at = self._started
        self._blows = list(plan.blows)
        self._jumps = list(plan.jumps)

    def open(self) -> None:
        """Have the server serve all files."""
        self._wares.open()

    def run(self) -> None:
        """The round with faults, then the quiet one. Raises `AssertionError` for each broken promise."""
        self._armed = {"NEARFAR_CHAOS_RUN": str(self._folder)}
        self._due = dict.fromkeys(self.plan.roles, 0.0)
        self._until("the input is through", self._through, LIMIT)
        self._dismiss()
        check_requests(self._web, self._watch, self._struck_at, self.figures)
        self._quiet_round()
        check_end(self._folder, self._watch, self._wares, agents=self.plan.pool == "far")
        assert patiently(lambda: not self._starter.alive(), 10), f"processes left: {self._starter.alive()}"
        saved, given = self._wares.saved(), Counter(self._wares.given)
        self.figures.update(files=len(saved), starts=self._commands.starts)
        self.figures["given again"] += sum(
            max(0, given[ware.path] - 1) for ware in self._wares.saved().values()
        )

    # -- the struck round ----------------------------------------------------------------------------

    def _through(self) -> bool:
        self._strike()
        self._turn()
        for ended in self._commands.ended():
            self._take_note(ended)
        for role, when in list(self._due.items()):
            if self._now() >= when:
                del self._due[role]
                self._commands.start(role, self._armed)
                self._tell(f"started {role}")
        return set(self._producers()) <= self._done

    def _take_note(self, ended: Ended) -> None:
        self._tell(f"{ended.role} ended with {ended.code}")
        if ended.role in self._producers() and ended.code in (Exit.OK, Exit.FAILED):
            check_producer(ended, self._wares, self._shares[ended.role], self._folder)
            self._done.add(ended.role)
            return
        good = ended.code in AGAIN or (ended.code == Exit.OK and ended.role.startswith("consumer"))
        assert good, f"{ended.role} ended with {ended.code}: {ended.err}"
        self._due[ended.role] = self._now() + self._dice.uniform(0.02, 0.4)

    def _strike(self) -> None:
        while self._jumps and self._now() >= self._jumps[0][0]:
            (self._folder / "clock").write_text(str(self._jumps.pop(0)[1]))
            self._tell("the clock jumped")
        for blow in [blow for blow in self._blows if self._now() >= blow.at]:
            if blow.role in self._commands.running:
                self._blows.remove(blow)
                self._deal(blow)
        for path in (self._folder / "struck").iterdir():
            if path.name not in self._seen:
                self._seen.add(path.name)
                number, pid = map(int, path.name.split())
                mine = self.plan.mines[number]
                self._note(
                    f"{mine.role} came to {mine.point!r} and was to {mine.kind}", mine.kind, mine.seconds, pid
                )
        if self._now() > GATHERED and (not self._blows or self._now() > 2 * GATHERED):
            self._wares.open()

    def _deal(self, blow: Blow) -> None:
        pid = self._commands.running[blow.role].pid
        if blow.below and (found := leaves(pid)):
            pid = self._dice.choice(found)
        self._commands.signal_one(pid, signal.SIGKILL if blow.kind == "kill" else signal.SIGSTOP)
        self._note(f"{blow.kind} for {pid} of {blow.role}", blow.kind, blow.seconds, pid)

    def _note(self, what: str, kind: str, seconds: float, pid: int) -> None:
        self.figures["kills" if kind == "kill" else "stops"] += 1
        self._struck_at = time.monotonic() + seconds
        self._tell(what)
        if kind == "stop":
            self._thaw.append((self._now() + seconds, pid))

    def _dismiss(self) -> None:
        """Let all commands end; stop those that host for ever, or wait for a peer that will not return."""
        self._wares.open()
        left = lambda: [role for role in self._commands.running if role.startswith("consumer")]  # noqa: E731
        patiently(lambda: self._settled() and not left(), NATURAL)
        for signum in (signal.SIGTERM, signal.SIGTERM):
            for role in list(self._commands.running):
                self._commands.signal(role, signum)
            if patiently(lambda: self._settled() and not self._commands.running, LEASE + 7):
                return
        raise AssertionError(f"told to stop, and still there: {list(self._commands.running)}")

    def _settled(self) -> bool:
        self._strike()
        self._turn()
        for ended in self._commands.ended():
            self._tell(f"{ended.role} ended with {ended.code}")
            # One that was just starting does not hear a polite word yet.
            assert ended.code in (*AGAIN, Exit.OK, Exit.TERMINATED, -signal.SIGTERM), (
                f"{ended.role}: {ended.code}, {ended.err}"
            )
        return not self._thaw

    # -- the quiet round -----------------------------------------------------------------------------

    def _quiet_round(self) -> None:
        """The same commands once more: all files exist, none is fetched, every command ends."""
        asked = len(self._web.log)
        self._tell("the quiet round")
        for role in self.plan.roles:
            self._commands.start(role, {})
        ends: dict[str, Ended] = {}
        workers = {role for role in self.plan.roles if role.startswith(("consumer", "producer"))}
        self._until("the quiet round is over", partial(self._over, ends, workers), LIMIT)
        for role in list(self._commands.running):
            self._commands.signal(role, signal.SIGTERM)
        self._until("the hosts have left", partial(self._over, ends, set(self.plan.roles)), 15)
        for role, ended in ends.items():
            if role in self._producers():
                saved, already = check_producer(ended, self._wares, self._shares[role], self._folder)
                assert not saved, f"{role} saved {saved} again; {already} were there"
            else:
                late = (
                    ended.code == Exit.LOST and self._host_ends_by_itself and "no host has answ" in ended.err
                )
                assert ended.code == Exit.OK or late, f"{role} ended with {ended.code}: {ended.err}"
        again = {each.path for each in self._web.log[asked:]}
        assert not again & {ware.path for ware in self._wares.saved().values()}, (
            f"fetched again: {sorted(again)}"
        )

    def _over(self, ends: dict[str, Ended], roles: set[str]) -> bool:
        self._turn()
        ends.update({ended.role: ended for ended in self._commands.ended()})
        return roles <= ends.keys()

    # -- both ----------------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = self._now()
        for when, pid in [each for each in self._thaw if each[0] <= now]:
            self._thaw.remove((when, pid))
            self._commands.signal_one(pid, signal.SIGCONT)
            self._tell(f"{pid} goes on")
        self._watch.look()

    def _until(self, what: str, holds: Callable[[], bool], within: float) -> None:
        assert patiently(holds, within), f"not in {within:g} s: {what}; there are {self._stuck()}"

    def _stuck(self) -> str:
        each = [f"{role}: {said(r)[1][-600:]}" for role, r in self._commands.running.items()]
        return "\n".join(each)

    @property
    def _host_ends_by_itself(self) -> bool:
        """Whether a consumer that starts late may find that its host has already ended."""
        return self.plan.host.startswith(("consumer", "producer"))

    def _producers(self) -> list[str]:
        return [role for role in self.plan.roles if role.startswith("producer")]

    def _now(self) -> float:
        return time.monotonic() - self._started

    def _tell(self, what: str) -> None:
        self.story.append(f"{self._now():6.2f} {what}")
