"""A process that hosts a queue and does nothing else: ``python -m tests.support.hosting ADDRESS OPTIONS``.

OPTIONS are those of `FarQueue`, as JSON. Prints its address once others may connect, and ends with its
standard input, so that it does not outlive the test that started it.
"""

from __future__ import annotations

import json
import sys

from nearfar.queues.far import FarQueue


def main(address: str, options: str) -> None:
    queue = FarQueue(address=address, **json.loads(options))
    print(queue.address, flush=True)
    sys.stdin.read()
    queue.stop_hosting()


if __name__ == "__main__":
    main(*sys.argv[1:])
