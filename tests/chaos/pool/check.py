"""Checks after a run: calls, runs, outcomes, lost peers and the reasons."""

from __future__ import annotations

from collections import Counter, defaultdict

from tests.chaos.faults.faults import LEASE
from tests.chaos.faults.journal import Note
from tests.chaos.faults.stage import Stage
from tests.chaos.pool.plan import HOST, Plan
from tests.chaos.pool.roles import BUSY

Call = tuple[str, int]
HARMLESS = 0.45 * LEASE
"""What lasts for less loses nobody."""


class Check:
    """Reads the journal once. Each method raises `AssertionError`."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self._plan = plan
        self._stage = stage
        self._notes = list(stage.journal.notes())
        self._ran = Counter((note["client"], note["number"]) for note in self._of("ran"))
        self._outcomes: dict[Call, list[Note]] = defaultdict(list)
        for note in self._of("outcome"):
            self._outcomes[note["life"], note["number"]].append(note)
        self._deadly = [note for note in self._notes if self._is_deadly(note)]

    def all(self) -> None:
        self.every_call_has_one_outcome()
        self.nothing_ran_twice_unasked()
        self.losses_have_a_reason()
        self.deaths_have_a_reason()
        self.nothing_is_left_to_do()
        self._stage.figures["calls"] += len(self._outcomes)

    def every_call_has_one_outcome(self) -> None:
        """Each client has the outcomes of all its calls, and every value is correct."""
        lives = {note["who"]: note["life"] for note in self._of("calls")}
        for who in self._plan.callers:
            for number in range(self._plan.tasks):
                outcomes = self._outcomes[lives[who], number]
                assert len(outcomes) == 1, f"call {number} of {who} has {len(outcomes)} outcomes"
        for (life, number), outcomes in self._outcomes.items():
            for outcome in outcomes:
                if "value" in outcome:
                    assert outcome["value"] == number * number, outcome
                    assert self._ran[life, number], f"call {number} never ran, and has a value"
                else:
                    assert outcome["error"] == "WorkerLost", outcome

    def nothing_ran_twice_unasked(self) -> None:
        """Only if the coordinator and a worker were both lost, it is unknown whether a call had begun."""
        for call, count in self._ran.items():
            self._stage.figures["run again"] += count - 1
            most = 1 + self._plan.retries
            if HOST in self._stage.killed and self._worker_lost():
                most += 1
            assert count <= most, f"{call} ran {count} times"

    def losses_have_a_reason(self) -> None:
        lost = [n for notes in self._outcomes.values() for n in notes if "error" in n]
        self._stage.figures["calls lost"] += len(lost)
        assert not lost or self._deadly, f"lost for nothing: {lost}"
        if self._plan.near:
            kills = [
                note for note in self._deadly if "kill" in note.get("kind", "") or note["what"] == "struck"
            ]
            assert len(lost) <= len(kills), f"{len(kills)} workers were killed, and these lost: {lost}"

    def deaths_have_a_reason(self) -> None:
        """A peer is lost only if it was killed, or silent because of a fault."""
        for death in self._of("death"):
            if death["why"]:
                silent = "silent" in death["why"]
                self._stage.figures["declared dead"] += silent
                reasons = [note for note in self._deadly if note.get("since", note["at"]) <= death["at"]]
                assert reasons or not silent, f"given up for nothing: {death}"

    def nothing_is_left_to_do(self) -> None:
        for note in self._of("counts"):
            counts = note["counts"]
            assert not any(counts[what] for what in BUSY), f"not all is done: {counts}"
            assert counts["malformed"] == 0, counts
        for note in self._of("counted"):
            assert not note["counts"]["waiting"], note

    def _worker_lost(self) -> bool:
        """Whether a worker was killed: by the run, or by the coordinator because its client counted as
        dead."""
        given_up = any(note["role"] == "client" and "silent" in note["why"] for note in self._of("death"))
        return given_up or any(note.get("role", note.get("target")) != HOST for note in self._deadly)

    def _is_deadly(self, note: Note) -> bool:
        """Whether a peer may be declared dead because of this fault."""
        match note["what"]:
            case "fault" if note["kind"] in ("kill", "kill below", "reset", "cut", "half-open"):
                return True
            case "fault":
                return bool(note["length"] >= HARMLESS)
            case "struck":
                return True
            case "stall":
                return bool(note["until"] - note["since"] >= HARMLESS)
        return False

    def _of(self, what: str) -> list[Note]:
        return [note for note in self._notes if note["what"] == what]
