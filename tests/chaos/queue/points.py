"""The steps of an item's life at which its host, producer or consumer is killed or frozen."""

from __future__ import annotations

from tests.chaos.faults.failpoints import Point

ENDS = "nearfar.queues.client"
HOSTS = "nearfar.queues.broker"

OF_PRODUCER = {
    "hello-sent": Point(f"{ENDS}.io:ClientSockets._act", kind="HELLO"),
    "putting": Point(f"{ENDS}.producer:ItemSender.put", "before"),
    "put": Point(f"{ENDS}.producer:ItemSender.put"),
    "asking-room": Point(f"{ENDS}.io:ClientSockets._act", kind="NEED"),
    "admitted": Point(f"{ENDS}.io:ClientSockets._act", "before", "PUT"),
    "sent": Point(f"{ENDS}.io:ClientSockets._act", kind="PUT"),
    "news": Point(f"{ENDS}.producer:ItemSender.settle"),
    "leaving": Point(f"{ENDS}.io:ClientSockets._act", "before", "BYE"),
    "bye-sent": Point(f"{ENDS}.io:ClientSockets._act", kind="BYE"),
}
OF_CONSUMER = {
    "joined": Point(f"{ENDS}.io:ClientSockets._act", kind="JOIN"),
    "received": Point(f"{ENDS}.consumer:ItemReceiver.lend"),
    "taken": Point(f"{ENDS}.consumer:ItemReceiver.take"),
    "acking": Point(f"{ENDS}.consumer:ItemReceiver._count_acks", "before"),
    "acked": Point(f"{ENDS}.consumer:ItemReceiver._count_acks"),
    "reporting": Point(f"{ENDS}.io:ClientSockets._act", "before", "REPORT"),
    "reported": Point(f"{ENDS}.io:ClientSockets._act", kind="REPORT"),
    "synced": Point(f"{ENDS}.io:ClientSockets._act", kind="SYNCED"),
}
OF_HOST = {
    "welcome-sent": Point(f"{HOSTS}.server:Broker._send", kind="WELCOME"),
    "room-sent": Point(f"{HOSTS}.server:Broker._send", kind="ROOM"),
    "storing": Point(f"{HOSTS}.ledger:Ledger.store", "before"),
    "stored": Point(f"{HOSTS}.ledger:Ledger.store"),
    "lent": Point(f"{HOSTS}.server:Broker._send", "before", "LEND"),
    "lend-sent": Point(f"{HOSTS}.server:Broker._send", kind="LEND"),
    "took": Point(f"{HOSTS}.ledger:Ledger.took"),
    "settling": Point(f"{HOSTS}.ledger:Ledger.settle", "before"),
    "settled": Point(f"{HOSTS}.ledger:Ledger.settle"),
    "news-sent": Point(f"{HOSTS}.server:Broker._send", kind="SETTLED"),
    "ended": Point(f"{HOSTS}.protocol:BrokerProtocol._end"),
    "part-sent": Point(f"{HOSTS}.server:Broker._send", kind="PART"),
}
POINTS = OF_PRODUCER | OF_CONSUMER | OF_HOST
