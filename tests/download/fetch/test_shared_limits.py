"""Limits per host that several schedules share through one holder: stories, and random histories."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nearfar.download.fetch.schedule import LINGER, Schedule
from nearfar.queues.limits import BATCH, TURN, Claim, Grant, SharedLimits, divide

pytestmark = pytest.mark.pure

TOTAL = 8


@dataclass
class Member:
    """A process: its schedule, its two channels, and its running items."""

    name: str
    schedule: Schedule[int]
    up: deque[tuple[bool, list[Claim]]] = field(default_factory=deque)
    down: deque[list[Grant]] = field(default_factory=deque)
    active: list[tuple[str, int]] = field(default_factory=list)
    frozen: bool = False
    known: bool = True
    """The holder has not given up this member."""


class World:
    """Members, a holder, and messages that take any time, but stay in order."""

    def __init__(self, members: int, limit: int, rate: float | None = None, total: int = TOTAL) -> None:
        self.limit, self.rate, self.total = limit, rate, total
        self.now = 100.0
        self.holder = SharedLimits()
        self.members = [self.member() for _ in range(members)]
        self.done: list[int] = []
        self.asked: list[tuple[float, str]] = []
        self.messages = 0
        self.undeclared: set[str] = set()
        """Members that have not declared to a new holder what they have."""
        self.doubtful_until = 0.0

    def member(self) -> Member:
        self.born = getattr(self, "born", 0) + 1
        schedule: Schedule[int] = Schedule(self.total, self.limit, self.rate)
        schedule.join()
        member = Member(f"m{self.born}", schedule)
        member.up.append((True, []))
        return member

    # -- steps: each does a part of what may happen -----------------------------------------------

    def speak(self, member: Member) -> None:
        if not (member.known or member.down or member.frozen or member.name in self.undeclared):
            member.known = True
            member.up.append((False, []))  # a sign of life
        if not member.frozen and (claims := member.schedule.claims(self.now)):
            self.messages += 1
            member.up.append((False, claims))

    def start(self, member: Member) -> None:
        while not member.frozen and (taken := member.schedule.take(self.now)) is not None:
            member.active.append(taken)
            self.asked.append((self.now, taken[0]))
            self.check()

    def end(self, member: Member, which: int = 0) -> None:
        if member.active and not member.frozen:
            host, item = member.active.pop(which % len(member.active))
            member.schedule.release(host)
            self.done.append(item)

    def receive(self, member: Member) -> None:
        if member.down and not member.frozen:
            for host, count in member.schedule.grant(member.down.popleft(), self.now):
                for _ in range(count):
                    broken = next(each for each in reversed(member.active) if each[0] == host)
                    member.active.remove(broken)
                    member.schedule.release(host)
                    member.schedule.add(*broken, first=True)

    def serve(self, member: Member) -> None:
        if member.up:
            anew, claims = member.up.popleft()
            if anew:
                self.undeclared.discard(member.name)
            self.holder.claim(member.name, claims, self.now, anew=anew)
            self.flush()

    def flush(self) -> None:
        byname = {member.name: member for member in self.members}
        for name, grants in self.holder.flush(self.now):
            self.messages += 1
            byname[name].down.append(grants)

    def kill(self, member: Member) -> list[tuple[str, int]]:
        """The member dies, and another takes its place; returns what it had."""
        self.members.remove(member)
        self.holder.leave(member.name)
        back = member.active + self.waiting(member)
        self.members.append(self.member())
        self.flush()
        return back

    def waiting(self, member: Member) -> list[tuple[str, int]]:
        return [(f"h{item % 7}", item) for item in member.schedule.take_back()]

    def renew(self, member: Member) -> None:
        """A new session with the same holder: what was on its way is lost."""
        member.up.clear()
        member.down.clear()
        self.holder.pause(member.name)
        member.up.append((True, member.schedule.declare(self.now)))

    def restart(self) -> None:
        """A new holder, which knows that there was one before."""
        self.holder = SharedLimits()
        self.doubtful_until = self.now + 5
        self.holder.doubt(self.doubtful_until)
        self.undeclared = {member.name for member in self.members}
        for member in self.members:
            self.renew(member)

    def give_up(self, member: Member) -> None:
        """The holder ends the lease of a member that it does not hear."""
        if any(anew for anew, _ in member.up):
            return
        member.known = False
        self.holder.revoke(member.name)
        self.flush()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.doubtful_until:  # the lease of those that have not declared is over
            for member in self.members:
                member.known = member.known and member.name not in self.undeclared
        if self.holder.due <= self.now:
            self.flush()

    def check(self) -> None:
        """Never more than the limit, counted over all members that the holder has not given up."""
        used = Counter(host for member in self.members if member.known for host, _ in member.active)
        for host, count in used.items():
            assert count <= self.limit, f"{count} items of {host}"

    def everything(self) -> None:
        for member in self.members:
            self.start(member)
            self.speak(member)
            while member.up:
                self.serve(member)
        for member in self.members:
            while member.down:
                self.receive(member)

    def finish(self, items: int, seconds: float = 600.0) -> None:
        """Let everything happen until all `items` have ended, and nothing is left to do."""
        until = self.now + seconds
        while self.now < until:
            self.everything()
            for member in self.members:
                self.start(member)
                while member.active:
                    self.end(member)
            self.pass_time(0.05)
            if len(self.done) == items and self.idle():
                break

    def idle(self) -> bool:
        quiet = not any(member.up or member.down or member.active for member in self.members)
        return quiet and not any(self.holder.held(f"h{n}") for n in range(7))


@pytest.mark.parametrize(
    ("limit", "wants", "parts"),
    [
        (4, [9, 9], [2, 2]),
        (5, [9, 9], [3, 2]),
        (6, [1, 9, 9], [1, 3, 2]),
        (2, [1, 1, 1], [1, 1, 0]),
        (9, [1, 2], [1, 2]),
        (3, [0, 0], [0, 0]),
        (3, [], []),
    ],
)
def test_a_limit_is_divided_fairly(limit: int, wants: list[int], parts: list[int]) -> None:
    assert divide(limit, wants) == parts


@given(st.integers(1, 20), st.lists(st.integers(0, 20), max_size=8))
def test_a_division_wastes_nothing_and_favours_none(limit: int, wants: list[int]) -> None:
    parts = divide(limit, wants)
    assert sum(parts) == min(limit, sum(wants))
    assert all(part <= want for part, want in zip(parts, wants, strict=True))
    unmet = [part for part, want in zip(parts, wants, strict=True) if part < want]
    assert not unmet or max(parts) - min(unmet) <= 1 or max(parts) <= min(unmet) + 1


def test_one_member_gets_the_whole_limit_and_uses_it_without_further_messages() -> None:
    world = World(1, limit=4)
    member = world.members[0]
    for item in range(100):
        member.schedule.add("h0", item)
    world.everything()
    world.start(member)
    assert len(member.active) == 4
    world.messages = 0
    while len(world.done) < 90:
        world.end(member)
        world.everything()
    assert not world.messages


def test_two_members_share_a_host_and_a_share_without_work_goes_to_the_other() -> None:
    world = World(2, limit=4)
    first, second = world.members
    for item in range(100):
        first.schedule.add("h0", item)
    world.everything()
    world.everything()
    assert len(first.active) == 4
    second.schedule.add("h0", 1000)
    second.schedule.add("h0", 1001)
    world.everything()
    assert not second.active, "the first uses all"
    world.end(first)
    world.end(first)
    world.everything()
    world.everything()
    assert (len(first.active), len(second.active)) == (2, 2)
    world.end(second)
    world.end(second)
    world.everything()
    world.pass_time(LINGER)
    world.everything()
    world.everything()
    world.everything()
    assert len(first.active) == 4


def test_more_members_than_permits_take_turns() -> None:
    world = World(5, limit=2)
    for number, member in enumerate(world.members):
        for item in range(1000):
            member.schedule.add("h0", 1000 * number + item)
    had = set()
    for _ in range(100):
        world.everything()
        for member in world.members:
            if member.active:
                had.add(member.name)
                world.end(member)
        world.pass_time(TURN / 10)
    assert len(had) == 5


def test_a_host_parked_by_one_member_is_parked_for_all() -> None:
    world = World(3, limit=3)
    for member in world.members[:2]:
        for item in range(10):
            member.schedule.add("h0", item)
    for _ in range(4):
        world.everything()
    first, second, third = world.members
    assert first.active and second.active
    first.schedule.put_off("h0", world.now, 30.0)
    third.schedule.add("h0", 99)
    world.everything()
    asked = len(world.asked)
    for _ in range(290):
        for member in world.members:
            world.end(member)
        world.pass_time(0.1)
        world.everything()
    assert len(world.asked) == asked
    for _ in range(20):
        world.pass_time(0.1)
        world.everything()
    assert len(world.asked) > asked
    assert third.active or 99 in world.done


def test_a_host_that_asked_for_fewer_gets_fewer_from_all_and_more_again_in_time() -> None:
    holder = SharedLimits()
    holder.claim("a", [Claim("h", 8, want=8)], 0.0)
    holder.claim("b", [Claim("h", 8, want=8)], 0.0)
    holder.flush(0.0)
    holder.claim("a", [Claim("h", 8, want=8, slow=True)], 10.0)
    holder.claim("b", [Claim("h", 8, want=8, slow=True)], 10.1)  # the same event
    targets = {member: grants[-1].target for member, grants in holder.flush(10.1)}
    assert targets == {"a": 2, "b": 2}
    holder.claim("a", [Claim("h", 8, want=8, returned=2)], 10.2)
    holder.claim("b", [Claim("h", 8, want=8, returned=2)], 10.2)
    assert holder.flush(10.2) == []
    now = 10.2
    while holder.held("h") < 8 and now < 100:
        now = max(now, holder.due)
        holder.flush(now)
    assert 30 < now < 75


def test_a_dead_member_gives_back_at_once() -> None:
    world = World(2, limit=2)
    first, second = world.members
    for item in range(10):
        first.schedule.add("h0", item)
        second.schedule.add("h0", 100 + item)
    world.serve(first)
    world.speak(first)
    world.serve(first)
    assert world.holder.held("h0") == 2
    world.everything()
    world.kill(first)
    world.everything()
    world.everything()
    assert len(second.active) == 2


def test_a_restarted_holder_grants_nothing_until_members_had_time_to_return() -> None:
    world = World(2, limit=2)
    first, second = world.members
    for item in range(10):
        first.schedule.add("h0", item)
    world.everything()
    world.everything()
    assert len(first.active) == 2
    world.holder = SharedLimits()
    world.holder.doubt(world.now + 5)
    second.schedule.add("h0", 100)
    world.renew(second)
    world.everything()
    world.everything()
    assert not second.active
    world.renew(first)  # the last to return has its permits still
    world.everything()
    world.end(first)
    world.everything()
    assert len(first.active) == 2
    world.pass_time(5)
    for _ in range(3):
        world.everything()
        world.end(first)
    world.everything()
    assert (len(first.active), len(second.active)) == (1, 1)


def test_what_a_returning_member_has_too_much_is_taken_back() -> None:
    world = World(2, limit=2)
    first, second = world.members
    for item in range(10):
        first.schedule.add("h0", item)
        second.schedule.add("h0", 100 + item)
    world.speak(first)
    while first.up:
        world.serve(first)
    world.receive(first)
    world.start(first)
    assert len(first.active) == 2
    first.frozen, first.known = True, False
    world.holder.leave(first.name)
    world.everything()
    world.everything()
    assert len(second.active) == 2
    first.frozen = False
    world.renew(first)
    world.everything()
    assert not first.active
    first.known = True
    world.check()
    world.finish(20)
    assert sorted(world.done) == [*range(10), *range(100, 110)]


def test_the_rate_holds_over_all_members() -> None:
    rate = 20.0
    world = World(4, limit=8, rate=rate)
    for number, member in enumerate(world.members):
        for item in range(200):
            member.schedule.add("h0", 1000 * number + item)
    begun = world.now
    while world.now < begun + 10:
        world.everything()
        for member in world.members:
            world.start(member)
            while member.active:
                world.end(member)
        world.pass_time(0.01)
    assert 0.8 * rate * 10 <= len(world.asked) <= rate * 10 + rate * BATCH + 1
    times = [when for when, _ in world.asked]
    for index, when in enumerate(times):
        within = sum(when <= other < when + 2 for other in times[index:])
        assert within <= rate * 3 + rate * BATCH + 1, "a granted request lasts a second"


def test_a_rate_below_one_a_second_is_kept_when_the_host_is_left_and_asked_again() -> None:
    world = World(2, limit=8, rate=0.5)
    for item in range(12):
        world.members[item % 2].schedule.add("h0", item)
        for _ in range(40):
            world.everything()
            for member in world.members:
                world.start(member)
                world.end(member)
            world.pass_time(0.05)
    assert len(world.asked) in (11, 12)
    times = [when for when, _ in world.asked]
    assert all(later - earlier >= 1.5 for earlier, later in pairwise(times))


def test_a_member_with_many_hosts_gets_to_all_of_them_and_keeps_few_permits_from_others() -> None:
    world = World(1, limit=8, total=8)
    (member,) = world.members
    for host in range(50):
        for item in range(40):
            member.schedule.add(f"h{host}", 100 * host + item)
    asked: set[str] = set()
    for _ in range(480):
        world.everything()
        world.start(member)
        assert len(member.active) == 8 or len(asked) < 8
        asked.update(host for host, _ in member.active)
        for _ in range(4):
            world.end(member)
    assert len(asked) == 50
    assert sum(world.holder.held(f"h{host}") for host in range(50)) <= 3 * 8


def test_a_schedule_that_shares_no_longer_has_its_own_limits_and_forgets_idle_hosts() -> None:
    schedule: Schedule[int] = Schedule(4, 2)
    schedule.join()
    for item in range(3):
        schedule.add("h0", item)
    assert schedule.take(1.0) is None
    schedule.part()
    assert [schedule.take(1.0), schedule.take(1.0), schedule.take(1.0)] == [("h0", 0), ("h0", 1), None]
    for _ in range(2):
        schedule.release("h0")
    assert schedule.take(1.0) == ("h0", 2)
    schedule.release("h0")
    assert schedule.permits("h0") == 0 and schedule.deadline() is None and not schedule.claims(1.0)


STEPS = ("add", "speak", "serve", "receive", "start", "end", "time", "kill", "park", "renew", "lose")


@settings(max_examples=150, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(st.integers(1, 4), st.integers(1, 5), st.booleans(), st.booleans(), st.integers(0, 1 << 30))
def test_random_histories_never_exceed_the_limit_lose_nothing_and_end(
    members: int, limit: int, rated: bool, restarts: bool, seed: int
) -> None:
    random = Random(seed)
    world = World(members, limit, rate=40.0 if rated else None)
    added = 0
    for _ in range(400):
        member = random.choice(world.members)
        match random.choices(STEPS, (12, 12, 20, 20, 12, 16, 8, 0.5, 0.4, 0.5, 0.3))[0]:
            case "add":
                for _ in range(random.randrange(1, 6)):
                    member.schedule.add(f"h{added % 7}", added)
                    added += 1
            case "speak":
                world.speak(member)
            case "serve":
                world.serve(member)
            case "receive":
                world.receive(member)
            case "start":
                world.start(member)
            case "end":
                world.end(member, random.randrange(9))
            case "time":
                world.pass_time(random.choice((0.01, 0.1, 1.0)))
            case "kill":
                back = world.kill(member)
                for host, item in back:
                    world.members[-1].schedule.add(host, item)
            case "park":
                member.schedule.park(f"h{random.randrange(7)}", world.now + 2, world.now)
            case "renew":
                world.renew(member)
            case "lose":
                if restarts:
                    world.restart()
                else:
                    world.give_up(member)
        world.check()
    world.finish(added)
    assert sorted(world.done) == list(range(added))
    assert world.idle(), "every permit came back"
