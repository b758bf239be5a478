"""One process's client of a far queue, for any number of threads."""

from __future__ import annotations

from typing import Any

from nearfar.net.addresses import Address
from nearfar.net.auth import OWN, Access
from nearfar.queues.client.connection import ClientConnection
from nearfar.queues.client.limits import LimitCalls
from nearfar.queues.client.puts import ProducerCalls
from nearfar.queues.client.takes import ConsumerCalls


class QueueClient(ClientConnection):
    """A connection, with the `puts`, the `takes` and the `limits` over it."""

    def __init__(self, address: Address, access: Access = OWN, **options: Any) -> None:
        """As `ClientConnection`."""
        super().__init__(address, access, **options)
        self.puts = ProducerCalls(self)
        self.takes = ConsumerCalls(self)
        self.limits = LimitCalls(self)
