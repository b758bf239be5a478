"""Attacks on pools without pickle: bombs and stolen names, over real sockets.

Where the worker is attacked, it is a real process; where it attacks, it is make-believe behind a real
coordinator or agent.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from nearfar import Executor, InitializerFailed, ItemError, NearfarError, Pool, Untrusted
from nearfar.coordinator import task
from nearfar.coordinator.messages import PoolMessageType
from nearfar.coordinator.server import StandaloneCoordinator
from nearfar.coordinator.task import Mode, TaskOutcome, TaskStatus
from nearfar.net.addresses import Address
from nearfar.serialization import plain
from nearfar.serialization.plain import PLAIN, PlainCalls
from nearfar.serialization.tracebacks import prefixed
from nearfar.worker.agent import Agent
from tests.pool import offered
from tests.support.bombs import NOT_ALLOWED, bomb, wrapped
from tests.support.pool_client import PoolClient
from tests.support.shell import ANYWHERE
from tests.support.supervisor import FakeCrew
from tests.support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

DOUBLE = b"tests.pool.offered:double"
TRAPS = ["tests.pool.trap", "tests.pool.offered._corner"]


# -- hostile clients -------------------------------------------------------------------------------


@contextmanager
def unharmed(address: str) -> Iterator[None]:
    """The worker is the same process afterwards, and has imported only allowed modules."""
    with Pool.connect(address, plain=True) as witness:
        before = witness.apply(offered.pid)
        yield
        assert witness.apply(offered.pid) == before
        assert witness.apply(offered.imported, ([*TRAPS, "sys"],)) == ["sys"]
        assert witness.apply(offered.double, (21,)) == 42
    witness.join()


def refusals(client: PoolClient, rows: list[tuple[bytes, int, bytes, list[bytes]]]) -> list[BaseException]:
    """The outcomes of such calls."""
    numbered: list[Any] = [
        (n, mode, func, blob, more, None, 0) for n, (func, mode, blob, more) in enumerate(rows, 1)
    ]
    client.pending.update((row[0], row) for row in numbered)
    client.say(PoolMessageType.SUBMIT, False, rows=numbered)
    assert client.until(client.done, 20)
    errors = []
    for number in sorted(client.outcomes):
        outcome, blob, buffers = client.outcomes[number]
        assert (outcome, buffers) == (TaskOutcome.ERROR, [])
        assert blob.startswith(PLAIN)
        errors.append(plain.load_error(blob))
    return errors


@pytest.fixture
def stranger(plain_workers: str) -> Iterator[PoolClient]:
    """A client that sends arbitrary messages."""
    client = PoolClient(plain_workers)
    yield client
    client.say(PoolMessageType.BYE)
    assert client.until(lambda: client.parted)
    client.close()


def test_no_pickle_that_is_sent_to_a_worker_is_read(
    plain_workers: str, stranger: PoolClient, tmp_path: Path
) -> None:
    crater = tmp_path / "crater"
    rows = [
        (function, mode, blob, buffers)
        for function in (b"", DOUBLE)
        for mode in (Mode.CALL, Mode.MAP, Mode.STARMAP)
        for blob in wrapped(crater)
        for buffers in ([], [bomb(crater)])
    ]
    _, call, _ = PlainCalls().dump_call(offered.double, (1,))
    rows += [(bomb(crater), Mode.CALL, call, []), (DOUBLE, Mode.CALL, call, [bomb(crater)])]
    with unharmed(plain_workers):
        errors = refusals(stranger, rows)
    assert len(errors) == len(rows)
    assert {type(error) for error in errors} == {Untrusted, ItemError}
    assert not crater.exists()


def test_no_name_sent_to_a_worker_reaches_a_function_that_is_not_allowed(
    plain_workers: str, stranger: PoolClient
) -> None:
    _, call, _ = PlainCalls().dump_call(offered.double, ("true",))
    names = [name.encode() for name in NOT_ALLOWED if 0 < len(name) <= 1000]
    with unharmed(plain_workers):
        errors = refusals(stranger, [(name, Mode.CALL, call, []) for name in names])
    assert {type(error) for error in errors} == {Untrusted}


@pytest.mark.parametrize("function", [b"", DOUBLE, b"tests.pool.trap:spring"])
def test_no_pickle_in_an_initializer_is_read(
    plain_workers: str, stranger: PoolClient, tmp_path: Path, function: bytes
) -> None:
    crater = tmp_path / "crater"
    with unharmed(plain_workers):
        stranger.say(PoolMessageType.JOIN, True, rows=[(function, bomb(crater), [bomb(crater)])])
        _, call, _ = PlainCalls().dump_call(offered.double, (1,))
        row = (1, Mode.CALL, DOUBLE, call, [], None, 0)
        stranger.pending[1] = row
        stranger.say(PoolMessageType.SUBMIT, False, rows=[row])
        assert stranger.until(stranger.done, 20)
    outcome, description, _ = stranger.outcomes[1]
    assert outcome == TaskOutcome.FAILED
    assert isinstance(task.read(description, plain.load_error), Untrusted)
    assert not crater.exists()


# -- hostile workers and coordinators --------------------------------------------------------------


class HostileCrew(FakeCrew):
    """A worker that answers every task with the same message."""

    answer: tuple[int, bytes, list[bytes]]

    def run(self, name: str, rows: list[Any]) -> None:
        self.listener.answered(name, [self.answer for _ in rows], 0.01)


def hostile(status: int, blob: bytes, buffers: list[bytes]) -> Callable[[Any], Any]:
    def hire(listener: Any) -> HostileCrew:
        supervisor = HostileCrew(listener, 1)
        supervisor.answer = (status, blob, buffers)
        return supervisor

    return hire


@contextmanager
def hostile_workers(status: int, blob: bytes, buffers: list[bytes]) -> Iterator[str]:
    coordinator = StandaloneCoordinator(Address.parse(ANYWHERE), hostile(status, blob, buffers))
    try:
        yield str(coordinator.address)
    finally:
        coordinator.stop(0)
        coordinator.join()


def every_use(pool: Pool) -> list[BaseException]:
    """The errors by which calls of every kind end."""
    uses: list[Callable[[], Any]] = [
        lambda: pool.apply(offered.double, (1,)),
        lambda: pool.map(offered.double, [1, 2], 1),
        lambda: list(pool.imap(offered.double, [1])),
        lambda: next(pool.imap_unordered(offered.double, [1])),
        lambda: pool.starmap(offered.double, [(1,)]),
    ]
    caught = []
    for use in uses:
        with pytest.raises(Exception) as error:
            use()
        caught.append(error.value)
    return caught


def test_the_bomb_works_if_a_usual_client_connects_to_a_hostile_worker(tmp_path: Path) -> None:
    """This shows that the tests below can fail."""
    for number, status in enumerate((TaskStatus.VALUE, TaskStatus.ERROR)):
        crater = tmp_path / str(number)
        blob = bomb(crater)
        if status == TaskStatus.ERROR:
            blob = prefixed(ValueError(), "", blob)
        with hostile_workers(status, blob, []) as address, Pool.connect(address) as pool:
            result = pool.apply_async(offered.double, (1,))
            result.wait(20)
            result.successful()
        pool.join()
        assert crater.exists()


BLOBS = range(len(wrapped(Path())))


@pytest.mark.parametrize("status", [TaskStatus.VALUE, TaskStatus.ERROR])
@pytest.mark.parametrize("which", BLOBS)
def test_a_plain_client_reads_no_pickle_in_an_answer(tmp_path: Path, which: int, status: int) -> None:
    crater = tmp_path / "crater"
    blob = wrapped(crater)[which]
    with hostile_workers(status, blob, [bomb(crater)]) as address:
        with Pool.connect(address, plain=True) as pool:
            errors = every_use(pool)
        pool.join()
        with Executor.connect(address, plain=True) as executor:
            errors.append(executor.submit(offered.double, 1).exception(20) or KeyError())
    assert all(isinstance(error, Untrusted | ItemError) for error in errors)
    assert not crater.exists()


@pytest.mark.parametrize("which", BLOBS)
def test_a_plain_client_reads_no_pickle_in_its_initializers_error(tmp_path: Path, which: int) -> None:
    crater = tmp_path / "crater"
    with (
        hostile_workers(TaskStatus.ERROR, wrapped(crater)[which], []) as address,
        Pool.connect(address, initializer=offered.prepare, initargs=("x",), plain=True) as pool,
    ):
        assert all(isinstance(error, InitializerFailed) for error in every_use(pool))
    pool.join()
    assert not crater.exists()


def test_a_plain_client_reads_no_pickle_in_a_coordinators_failure(tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    shell = bomb(crater)
    for words in (("InitializerRaised", shell), ("WorkerLost", shell), (shell,), shell):
        blob = msgpack.packb(words)
        with pytest.raises(NearfarError):
            raise task.read(blob, plain.load_error)
    assert not crater.exists()


@pytest.mark.parametrize("status", [TaskStatus.VALUE, TaskStatus.ERROR])
def test_a_plain_pool_reads_no_pickle_of_workers_that_joined(tmp_path: Path, status: int) -> None:
    crater = tmp_path / "crater"
    with Pool(0, address=ANYWHERE, plain=True) as pool:
        agent = Agent(Address.parse(pool.address or ""), hostile(status, bomb(crater), []), 1)
        thread = threading.Thread(target=agent.run)
        thread.start()
        try:
            assert eventually(lambda: "1 worker" in repr(pool))
            assert all(isinstance(error, Untrusted) for error in every_use(pool))
        finally:
            agent.leave()
            agent.leave()
            thread.join()
    pool.join()
    assert not crater.exists()


def test_this_program_has_imported_no_trap() -> None:
    assert not any(map(sys.modules.__contains__, TRAPS))
