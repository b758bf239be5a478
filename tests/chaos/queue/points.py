"""The steps of an item's life at which its host, producer or consumer is killed or frozen."""

from __future__ import annotations

from tests.chaos.faults.failpoints import Point

ENDS = "nearfar.queues.ends"
HOSTS = "nearfar.queues.host"

OF_PRODUCER = {
    "hello-sent": Point(f"{ENDS}.loop:EndLoop._act", kind="HELLO"),
    "putting": Point(f"{ENDS}.sender:Sender.put", "before"),
    "put": Point(f"{ENDS}.sender:Sender.put"),
    "asking-room": Point(f"{ENDS}.loop:EndLoop._act", kind="NEED"),
    "admitted": Point(f"{ENDS}.loop:EndLoop._act", "before", "PUT"),
    "sent": Point(f"{ENDS}.loop:EndLoop._act", kind="PUT"),
    "news": Point(f"{ENDS}.sender:Sender.settle"),
    "leaving": Point(f"{ENDS}.loop:EndLoop._act", "before", "BYE"),
    "bye-sent": Point(f"{ENDS}.loop:EndLoop._act", kind="BYE"),
}
OF_CONSUMER = {
    "joined": Point(f"{ENDS}.loop:EndLoop._act", kind="JOIN"),
    "received": Point(f"{ENDS}.receiver:Receiver.lend"),
    "taken": Point(f"{ENDS}.receiver:Receiver.take"),
    "acking": Point(f"{ENDS}.receiver:Receiver._done", "before"),
    "acked": Point(f"{ENDS}.receiver:Receiver._done"),
    "reporting": Point(f"{ENDS}.loop:EndLoop._act", "before", "REPORT"),
    "reported": Point(f"{ENDS}.loop:EndLoop._act", kind="REPORT"),
    "synced": Point(f"{ENDS}.loop:EndLoop._act", kind="SYNCED"),
}
OF_HOST = {
    "welcome-sent": Point(f"{HOSTS}.loop:Host._send", kind="WELCOME"),
    "room-sent": Point(f"{HOSTS}.loop:Host._send", kind="ROOM"),
    "storing": Point(f"{HOSTS}.ledger:Ledger.store", "before"),
    "stored": Point(f"{HOSTS}.ledger:Ledger.store"),
    "lent": Point(f"{HOSTS}.loop:Host._send", "before", "LEND"),
    "lend-sent": Point(f"{HOSTS}.loop:Host._send", kind="LEND"),
    "took": Point(f"{HOSTS}.ledger:Ledger.took"),
    "settling": Point(f"{HOSTS}.ledger:Ledger.settle", "before"),
    "settled": Point(f"{HOSTS}.ledger:Ledger.settle"),
    "news-sent": Point(f"{HOSTS}.loop:Host._send", kind="SETTLED"),
    "ended": Point(f"{HOSTS}.machine:HostMachine._end"),
    "part-sent": Point(f"{HOSTS}.loop:Host._send", kind="PART"),
}
POINTS = OF_PRODUCER | OF_CONSUMER | OF_HOST
