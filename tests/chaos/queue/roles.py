"""The processes of a run: host, producer, consumer; each records its actions in the journal."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import suppress

from nearfar.errors import Empty, ProducerLost, QueueLost, ShutDown
from nearfar.net.process import new_name
from nearfar.net.session import SessionEnd
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.broker.sessions import Peer
from nearfar.queues.client.takes import DELIVERY, FarDelivery
from nearfar.queues.far import FarJoinableQueue, FarQueue
from tests.chaos.faults.access import connecting, hosting
from tests.chaos.faults.faults import LEASE
from tests.chaos.faults.journal import Journal
from tests.chaos.faults.starting import watch_stalls
from tests.chaos.queue.points import POINTS

__all__ = ["POINTS", "closer", "consumer", "host", "producer"]

PRODUCER_LOST, HOST_LOST = 3, 4
WAIT = 20.0


class ToTheEnd(FarQueue):
    """Deliveries up to the counted end."""

    def take(self) -> FarDelivery:
        if self._hand.receiving[1]:  # without the lock, as a program's `receive` does
            with suppress(Empty):
                return self.receive(block=False)
        end = self._reached()
        taken = end.takes.take_now(1, DELIVERY, block=True, timeout=None, to_the_end=True, hand_out=True)
        return FarDelivery(end.takes, taken[0])


def host(arguments: list[str]) -> int:
    """Host until SIGTERM, and record the clients declared dead."""
    order = json.loads(arguments[0])
    journal = Journal(order["journal"], "host")
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    _note_deaths(journal)
    watch_stalls(journal, LEASE / 4)
    address, options = order["address"], order["options"]
    queue = FarQueue(address=address, max_attempts=1000, **options, **hosting(address))
    journal.note("hosting", address=queue.address)
    told.wait()
    hosted = queue._host
    assert hosted is not None
    journal.note("counts", counts=hosted.counts())
    queue.stop_hosting()
    return 0


def producer(arguments: list[str]) -> int:
    """Put numbered items at a rate; with `stay`, remain until all items of all producers are done."""
    order = json.loads(arguments[0])
    journal = Journal(order["journal"], order["name"])
    life = new_name()
    queue = FarJoinableQueue.connect(order["address"], wait=WAIT, **connecting(order["address"]))
    journal.note("end", uid=queue._reached().name, life=life)
    watch_stalls(journal, LEASE / 4)
    pause = threading.Event()
    try:
        for first in range(0, order["items"], order["batch"]):
            numbers = range(first, min(first + order["batch"], order["items"]))
            queue.put_many([[order["name"], life, number] for number in numbers])
            pause.wait(order["pace"] * order["batch"])
        if order["stay"]:
            queue.join()
        queue.close()
        queue.join_thread()
    except QueueLost as error:
        print(error)
        return HOST_LOST
    return 0


def consumer(arguments: list[str]) -> int:
    """Get items to the end, and record each before it is acked."""
    order = json.loads(arguments[0])
    journal = Journal(order["journal"], order["name"])
    queue = ToTheEnd.connect(order["address"], wait=WAIT, **connecting(order["address"]))
    end = queue._reached()
    stem = end.machine.calling._stem
    journal.note("end", uid=end.name)
    watch_stalls(journal, LEASE / 4)
    pause = threading.Event()
    try:
        while True:
            delivery = queue.take()
            session = f"{stem}.{delivery._taken.session}"
            journal.note("got", item=delivery.item, attempt=delivery.attempt, session=session)
            pause.wait(order["pace"])
            delivery.ack()
    except ProducerLost:
        return _leave(queue, PRODUCER_LOST)
    except QueueLost as error:
        print(error)
        return HOST_LOST
    except ShutDown:
        return _leave(queue, 0)


def closer(arguments: list[str]) -> int:
    """Shut the queue down: a restarted host cannot know how many producers will connect."""
    order = json.loads(arguments[0])
    queue = FarQueue.connect(order["address"], wait=WAIT, **connecting(order["address"]))
    queue.shutdown()
    return _leave(queue, 0)


def _leave(queue: FarQueue, code: int) -> int:
    queue.close()
    queue.join_thread()
    return code


def _note_deaths(journal: Journal) -> None:
    inner = BrokerProtocol._end

    def end(self: BrokerProtocol, peer: Peer, why: str, how: SessionEnd, now: float) -> None:
        journal.note("death", session=peer.name, uid=peer.uid, why=why, cleanly=how is SessionEnd.LEFT)
        inner(self, peer, why, how, now)

    BrokerProtocol._end = end  # type: ignore[method-assign]
