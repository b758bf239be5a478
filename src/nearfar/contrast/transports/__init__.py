"""The transports that are compared, by name."""

from __future__ import annotations

from nearfar.contrast.names import FAR_IPC, FAR_TCP, NEAR, QUEUE, RAW
from nearfar.contrast.transports.base import Transport
from nearfar.contrast.transports.far import open_ipc, open_tcp
from nearfar.contrast.transports.inherited import open_near, open_standard
from nearfar.contrast.transports.raw import open_raw

TRANSPORTS = {
    each.name: each
    for each in (
        Transport(QUEUE, open_standard),
        Transport(RAW, open_raw),
        Transport(NEAR, open_near),
        Transport(FAR_IPC, open_ipc, hosted=True),
        Transport(FAR_TCP, open_tcp, hosted=True),
    )
}
