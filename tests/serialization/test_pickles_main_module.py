"""What real programs send of their `__main__` to workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.pickling import run_script

START = """
import dataclasses, enum, functools, math, os, sys
from tests.support.pickling import far_worker, near_worker
"""

OPTIONS = [pytest.param((), id="file"), pytest.param(("-c",), id="-c")]


def program(definitions: str, worker: str, body: str) -> str:
    lines = "".join(f"        {line}\n" for line in body.strip().splitlines())
    return f"{START}\n{definitions}\nif __name__ == '__main__':\n    with {worker} as call:\n{lines}"


FAR = "far_worker()"
WORKERS = [FAR, "near_worker('fork')", "near_worker('spawn')", "near_worker('fork', far=True)"]
WORKERS += ["near_worker('spawn', far=True)"]


def program_for_all(definitions: str, body: str, workers: Sequence[str] = WORKERS) -> str:
    """As `program`, with one worker after the other, each of which has a client of its own."""
    lines = "".join(f"                {line}\n" for line in body.strip().splitlines())
    return f"""{START}
{definitions}
if __name__ == "__main__":
    for start in ({"".join(f"lambda: {worker}, " for worker in workers)}):
        client = os.fork()
        if not client:
            with start() as call:
{lines}
            break
        assert os.waitpid(client, 0)[1] == 0
"""


COUNTER = """
m = 0
def bump():
    global m
    m += 1
    return m
def read():
    return m
def fill(value):
    global m
    m = value
"""


def test_a_global_that_a_task_changed_stays_for_the_next(tmp_path: Path) -> None:
    body = "assert [call(bump), call(bump), call(read), call(bump)] == [1, 2, 2, 3]\nassert m == 0"
    run_script(tmp_path, program_for_all(COUNTER, body))


def test_interactive_functions_share_their_globals(tmp_path: Path) -> None:
    body = "call(fill, 40)\nassert [call(bump), call(read)] == [41, 41]"
    run_script(tmp_path, program(COUNTER, FAR, body), "-c")


def test_another_client_has_globals_of_its_own(tmp_path: Path) -> None:
    body = """
call.call("you", fill, 7)
assert call(bump) == 1
assert call.call("you", read) == 7
"""
    run_script(tmp_path, program(COUNTER, FAR, body))


@pytest.mark.parametrize("worker", [FAR, "near_worker('fork', far=True)"])
def test_a_global_that_the_client_changed_overwrites_the_workers(tmp_path: Path, worker: str) -> None:
    body = """
assert [call(bump), call(bump)] == [1, 2]
m = 10
assert [call(bump), call(read), call(bump)] == [11, 11, 12]
m = 0
assert [call(read), call(bump)] == [0, 1]
m = 10
assert call(read) == 10
"""
    run_script(tmp_path, program(COUNTER, worker, body))


def test_a_mutable_global_is_compared_by_its_contents(tmp_path: Path) -> None:
    definitions = """
seen = {}
def note(key):
    seen[key] = True
    return sorted(seen)
"""
    body = """
assert call(note, "a") == ["a"]
assert call(note, "b") == ["a", "b"]
seen["z"] = True
assert call(note, "c") == ["c", "z"]
assert call(note, "d") == ["c", "d", "z"]
"""
    run_script(tmp_path, program(definitions, FAR, body))


@pytest.mark.parametrize("worker", [FAR, "near_worker('fork', far=True)"])
def test_a_function_defined_anew_replaces_the_old_one(tmp_path: Path, worker: str) -> None:
    definitions = "def inner(): return 1\ndef outer(): return inner()"
    body = """
assert call(outer) == 1
first = inner
def second(): return 2
inner = second
assert call(outer) == 2
inner = first
assert call(outer) == 1
"""
    run_script(tmp_path, program(definitions, worker, body))


def test_a_near_function_defined_after_the_start_of_workers_is_sent_by_value(tmp_path: Path) -> None:
    definitions = "m = 5\ndef early(): return m"
    body = """
def late(): return early() + 1
assert call.pickler.dump_call(early, (), {})[0] == b"__main__:early"
assert call.pickler.dump_call(late, (), {})[0] == b""
assert [call(late), call(early)] == [6, 5]
assert call(lambda: m) == 5
"""
    run_script(tmp_path, program(definitions, "near_worker('fork')", body))


def test_a_near_class_defined_after_the_start_of_workers_is_sent_by_value(tmp_path: Path) -> None:
    definitions = "class Early: pass\ndef same(x): return x"
    body = """
class Late(Early): pass
assert type(call(same, Late())) is Late
assert type(call(same, Early())) is Early
back = call(same, [Early(), Late(), Late, lambda: Late])
assert [type(back[0]), type(back[1]), back[2]] == [Early, Late, Late]
old = Early
class Early: pass
assert type(call(same, Early())) is Early
assert type(call(same, old())) is old
"""
    run_script(tmp_path, program(definitions, "near_worker('fork')", body))


@pytest.mark.parametrize(
    ("method", "options", "all_of_it"),
    [("fork", (), True), ("fork", ("-c",), True), ("spawn", (), True), ("spawn", ("-c",), False)],
)
def test_what_workers_inherit_of_main_follows_from_how_they_start(
    tmp_path: Path, method: str, options: tuple[str, ...], all_of_it: bool
) -> None:
    run_script(
        tmp_path,
        f"""
from nearfar.serialization.names import inherited_main
from tests.support.pickling import near_worker
def f(): return 5
if __name__ == "__main__":
    assert inherited_main("{method}").get("f") is (f if {all_of_it} else None)
    with near_worker("{method}") as call:
        assert call(f) == 5
        assert call(lambda: f()) == 5
        assert (call.pickler.dump_call(f, (), {{}})[0] == b"__main__:f") is {all_of_it}
""",
        *options,
    )


CLASSES = """
class Point:
    made = 0
    def __init__(self, x): self.x = x
    def doubled(self):
        Point.made += 1
        return Point(self.x * 2)
    def __eq__(self, other): return type(other) is Point and other.x == self.x
    __hash__ = None
@dataclasses.dataclass
class Pair:
    a: Point
    b: list = dataclasses.field(default_factory=list)
class Colour(enum.Enum):
    RED = 1
    BLUE = 2
class Child(Point):
    def doubled(self): return super().doubled()
def doubled(point): return point.doubled()
def same(colour): return colour, colour is Colour.RED, isinstance(colour, Colour)
def made(): return Point.made
"""


def test_instances_of_mains_classes_return_as_the_clients_own(tmp_path: Path) -> None:
    body = """
Point.__reduce_ex__  # untouched
methods = {**vars(Point), "__slotnames__": []}  # copyreg adds these when it first pickles an instance
back = call(doubled, Point(4))
assert type(back) is Point and back.x == 8
assert call(made) == 1
assert dict(vars(Point)) == methods and Point.made == 0
assert call(Point(3).doubled) == Point(6)
assert call(doubled, Child(1)) == Point(2)
pair = call(Pair, Point(1), [Point(2)])
assert type(pair) is Pair and pair == Pair(Point(1), [Point(2)])
assert call(same, Colour.RED) == (Colour.RED, True, True)
assert call(made) == 3
assert call.map(doubled, [Point(1), Child(2)]) == [Point(2), Point(4)]
"""
    run_script(tmp_path, program_for_all(CLASSES, body))


@pytest.mark.parametrize("options", OPTIONS)
def test_a_class_attribute_that_the_client_changed_overwrites_the_workers(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    body = """
call(doubled, Point(1))
assert call(made) == 1
Point.made = 5
assert call(made) == 5
Point.doubled = lambda self: "patched"
assert call(doubled, Point(1)) == "patched"
"""
    run_script(tmp_path, program(CLASSES, FAR, body), *options)


def test_exceptions_of_main_return_as_themselves(tmp_path: Path) -> None:
    definitions = """
class Trouble(Exception):
    def __init__(self, code, lock=None):
        super().__init__(f"code {code}")
        self.code = code
        self.lock = lock
def fail():
    raise Trouble(7)
def fail_oddly():
    import threading
    raise Trouble(8, threading.Lock())
"""
    body = """
for task, code in ((fail, 7), (fail_oddly, 8)):
    try:
        call(task)
    except Trouble as error:
        assert error.code == code and str(error) == f"code {code}"
        assert "raise Trouble" in str(error.__cause__) or not os.path.exists(__file__)
    else:
        raise AssertionError
"""
    run_script(tmp_path, program_for_all(definitions, body))


def test_a_workers_instances_are_of_the_classes_received_later(tmp_path: Path) -> None:
    definitions = (
        CLASSES + "origin = Point(1)\ndef check(point): return origin == point and type(origin) is Point"
    )
    body = "assert call(check, Point(1))\nassert call(check, origin)"
    run_script(tmp_path, program_for_all(definitions, body))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_name_refers_to_the_object_at_the_start_of_the_worker(tmp_path: Path, method: str) -> None:
    definitions = """
def early(): return 1
def spoil():
    global early
    early = None
"""
    run_script(
        tmp_path, program(definitions, f"near_worker('{method}')", "call(spoil)\nassert call(early) == 1")
    )


def test_a_cached_function_of_main_is_sent_and_keeps_its_cache(tmp_path: Path) -> None:
    definitions = """
calls = []
@functools.lru_cache(maxsize=50)
def fib(n):
    calls.append(n)
    return n if n < 2 else fib(n - 1) + fib(n - 2)
def count(n):
    return fib(n), len(calls)
"""
    body = """
assert call(fib, 10) == 55
first = call(count, 10)
assert call(count, 10) == first
"""
    run_script(tmp_path, program(definitions, FAR, body))


def test_functions_may_be_called_while_they_are_read(tmp_path: Path) -> None:
    definitions = """
offset = 5
def build(x): return x + offset
class Lazy:
    def __reduce__(self): return build, (1,)
def same(x): return x
"""
    run_script(tmp_path, program(definitions, FAR, "assert call(same, Lazy()) == 6"))


def test_functions_by_name_need_no_cloudpickle(tmp_path: Path) -> None:
    definitions = "def loaded(x): return x, 'cloudpickle' in sys.modules"
    body = """
assert call(loaded, 5) == (5, False)
assert call.map(loaded, range(2)) == [(0, False), (1, False)]
assert "cloudpickle" not in sys.modules
"""
    run_script(tmp_path, program(definitions, "near_worker('spawn')", body))


def test_a_far_worker_needs_no_cloudpickle_for_names(tmp_path: Path) -> None:
    body = """
assert call(math.hypot, 3, 4) == 5
assert call(eval, "'cloudpickle' in __import__('sys').modules") is False
assert "cloudpickle" not in sys.modules
"""
    run_script(tmp_path, program("", FAR, body))


def test_a_pool_in_a_spawned_process_has_its_own_main(tmp_path: Path) -> None:
    definitions = (
        CLASSES
        + """
def nested(connection):
    with far_worker() as call:
        back = call(doubled, Point(2))
        connection.send((type(back) is Point, back.x))
"""
    )
    source = f"""{START}{definitions}
if __name__ == "__main__":
    from multiprocessing import get_context
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=nested, args=(there,))
    process.start()
    there.close()
    assert here.recv() == (True, 4)
    process.join()
    assert process.exitcode == 0
"""
    run_script(tmp_path, source)
