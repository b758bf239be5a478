"""Large payloads between a process and its worker: in shared memory, with only a descriptor in the message.

::

    Sender                                       Receiver
    place(parts) -> descriptor, fds ==message==> map(descriptor, fds) -> views, in place
    released(numbers)               <==message== take_released()

One of each for each direction. A segment of memory has no name: it travels as a file descriptor with the
first message that uses it, and ends with the last process that has it, however that process ends. It is
mapped once and used again and again, because fresh memory costs many times what copying costs.
"""

from __future__ import annotations

from nearfar.worker.segments.memory import IDLE, INLINE
from nearfar.worker.segments.receiver import Receiver
from nearfar.worker.segments.sender import Sender

__all__ = ["IDLE", "INLINE", "Receiver", "Sender"]
