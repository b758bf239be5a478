"""Checks after a run: items put and received, processes declared dead and the reasons."""

from __future__ import annotations

from collections import defaultdict

from tests.chaos.faults.faults import LEASE
from tests.chaos.faults.journal import Note
from tests.chaos.faults.stage import Stage
from tests.chaos.queue.plan import HOST, Plan

Item = tuple[str, str, int]
HARMLESS = 0.45 * LEASE
"""What lasts for less declares nobody dead."""


class Check:
    """Reads the journal once. Each method raises `AssertionError`."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self._plan = plan
        self._stage = stage
        self._notes = list(stage.journal.notes())
        self._host_killed = HOST in stage.killed
        self._gets: dict[Item, list[Note]] = defaultdict(list)
        for note in self._of("got"):
            producer, life, number = note["item"]
            self._gets[producer, life, number].append(note)
        self._dead = {note["session"] for note in self._of("death") if not note["cleanly"]}

    def all(self) -> None:
        self.nothing_missing()
        self.repeats_have_a_reason()
        self.deaths_have_a_reason()
        self.counts_add_up()
        self.order()
        self._stage.figures["items"] += len(self._gets)

    def nothing_missing(self) -> None:
        got = {(producer, number) for producer, _, number in self._gets}
        roles = [role for role in self._plan.roles if role.startswith("producer")]
        missing = {(role, number) for role in roles for number in range(self._plan.items)} - got
        assert not missing, f"missing: {sorted(missing)[:20]} and {max(0, len(missing) - 20)} more"
        assert not got - {(role, n) for role in roles for n in range(self._plan.items)}, "nobody put that"

    def repeats_have_a_reason(self) -> None:
        """An item is seen again only if who saw it before was declared dead, or the host was killed."""
        for item, notes in self._gets.items():
            self._stage.figures["redelivered"] += len(notes) - 1
            if len(notes) == 1 or self._host_killed:
                continue
            attempts = [note["attempt"] for note in notes]
            assert len(set(attempts)) == len(attempts), f"{item} came twice as the same attempt: {notes}"
            alive = [note for note in notes if note["session"] not in self._dead]
            assert len(alive) <= 1, f"{item} was seen by several who were never declared dead: {alive}"

    def deaths_have_a_reason(self) -> None:
        """A process is declared dead only if it was killed, or silent because of a fault."""
        roles = {note["uid"]: note["who"] for note in self._of("end")}
        for death in self._of("death"):
            if death["cleanly"]:
                continue
            self._stage.figures["declared dead"] += 1
            role = roles.get(death["uid"], "closer")
            reasons = [note for note in self._notes if self._explains(note, role, death)]
            assert reasons, f"{role} was declared dead for nothing: {death}"

    def counts_add_up(self) -> None:
        counts = [note["counts"] for note in self._of("counts")][-1]
        told = {name: counts[name] for name in ("size", "unsettled", "dead", "dropped", "undeliverable")}
        assert not any(told.values()), f"not all is done: {counts}"
        assert counts["stored"] == counts["settled"], counts
        assert counts["malformed"] == 0 and counts["bytes"] == 0, counts
        if not self._host_killed:
            lives = len({life for _, life, _ in self._gets})
            gets = sum(map(len, self._gets.values()))
            assert counts["settled"] <= gets, f"{counts['settled']} settled, {gets} got by {lives} lives"
            assert self._dead or not counts["late"], counts

    def order(self) -> None:
        """If no process was lost, a single consumer receives each producer's items in order, each once."""
        if self._plan.consumers > 1 or self._host_killed or self._dead:
            return
        seen: dict[str, list[int]] = defaultdict(list)
        for note in self._of("got"):
            seen[note["item"][1]].append(note["item"][2])
        for life, numbers in seen.items():
            assert numbers == sorted(set(numbers)), f"the items of {life} came as {numbers}"

    def _explains(self, note: Note, role: str, death: Note) -> bool:
        at = death["at"]
        match note["what"]:
            case "ended":
                return note["role"] == role
            case "fault" if note["kind"] in ("stop", "kill"):
                lasting = note["kind"] == "kill" or note["length"] >= HARMLESS
                return note["target"] in (role, HOST) and lasting and note["at"] <= at
            case "fault":  # TCP doubles its patience: what lasted a while is felt for longer
                lasting = note["length"] >= HARMLESS or note["kind"] in ("reset", "cut", "half-open")
                return lasting and note["at"] <= at
            case "stall":
                lasting = note["until"] - note["since"] >= HARMLESS
                return note["who"] in (role, HOST) and lasting and note["since"] <= at
        return False

    def _of(self, what: str) -> list[Note]:
        return [note for note in self._notes if note["what"] == what]
