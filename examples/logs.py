"""Log files of many machines, counted in one place.

On one machine, a process for each file:

    python logs.py count access-1.log access-2.log

Over machines, one collects, and each machine reads its own files. The collector ends by itself once two
readers have ended. If one of them is killed, it says so: a total that lacks a file is never shown as
complete.

    python logs.py collect tcp://127.0.0.1:5555 --readers 2
    python logs.py send tcp://127.0.0.1:5555 access-1.log      # on the first machine
    python logs.py send tcp://127.0.0.1:5555 access-2.log      # on the second
"""

import argparse
import re
import sys
from collections import Counter
from multiprocessing import Process
from pathlib import Path
from threading import Thread

from nearfar import ProducerLost, Queue

STATUS = re.compile(r'" (\d{3}) ')


def statuses(path: str, lines: int = 10_000):
    """The count of each HTTP status, in parts of `lines` lines, so that a large file needs little memory."""
    part = Counter()
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if match := STATUS.search(line):
                part[match[1]] += 1
            if number % lines == 0:
                yield dict(part)
                part.clear()
    yield dict(part)


def send(queue, paths: list[str]) -> None:
    for path in paths:
        for part in statuses(path):
            queue.put(part)
    queue.close()


def total(queue) -> Counter:
    counts = Counter()
    for part in queue:
        counts.update(part)
    return counts


def count(paths: list[str]) -> Counter:
    """Near. A near queue does not detect the end: it is shut down once all readers have ended."""
    queue = Queue(100)
    readers = [Process(target=send, args=(queue, [path])) for path in paths]
    for reader in readers:
        reader.start()

    def shut_down() -> None:
        for reader in readers:
            reader.join()
        queue.shutdown()

    Thread(target=shut_down).start()
    counts = total(queue)
    if any(reader.exitcode for reader in readers):
        sys.exit("a reader failed: the counts are not complete")
    return counts


def collect(address: str, readers: int) -> Counter:
    """Far: the queue's host counts the readers that come and leave."""
    queue = Queue(100, address, producers=readers)
    try:
        return total(queue)
    except ProducerLost as lost:
        sys.exit(f"the counts are not complete: {lost}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="count the HTTP statuses in log files")
    commands = parser.add_subparsers(dest="command", required=True)
    here = commands.add_parser("count", help="files of this machine")
    here.add_argument("files", nargs="+")
    collector = commands.add_parser("collect", help="host the queue, and add up what others send")
    collector.add_argument("address")
    collector.add_argument("--readers", type=int, default=1, help="how many will send")
    sender = commands.add_parser("send", help="send the counts of this machine's files")
    sender.add_argument("address")
    sender.add_argument("files", nargs="+")
    options = parser.parse_args()
    if options.command == "send":
        send(Queue.connect(options.address), options.files)
    else:
        if options.command == "count":
            counts = count(options.files)
        else:
            counts = collect(options.address, options.readers)
        for status, number in sorted(counts.items()):
            print(f"{status} {number:>8,}")
