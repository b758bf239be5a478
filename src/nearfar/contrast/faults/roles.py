"""What the processes of a fault's story do. Each keeps a diary; what it did is known though it be killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nearfar.contrast.diary import HELLO, START, Diary, read
from nearfar.contrast.transports.base import Link

Numbered = Iterable[tuple[int, Any]]
"""What to put: each item with the number that stands for it in the diaries."""
Handle = Callable[[Any], int]
"""What a consumer does with an item; returns its number."""

GREETING_EVERY = 0.005


def produce(
    link: Link,
    diary: Path,
    readers: Sequence[Path],
    parts: Sequence[Numbered],
    cue: Connection,
    die_after: int | None = None,
) -> None:
    """Put the parts, waiting for a cue between two of them; then live on.

    Before that, put greetings until everybody has got one: a PUSH socket would give all to whom it met first.
    `die_after`: kill itself after so many puts have returned.
    """
    producer = link.producer()
    while not all(any(entry.number == HELLO for entry in read(reader)) for reader in readers):
        producer.put(None)
        time.sleep(GREETING_EVERY)
    mine = Diary(diary)
    mine.write(START)
    put = 0
    for index, part in enumerate(parts):
        if index:
            cue.recv()
        for number, item in part:
            producer.put(item)
            mine.write(number)
            put += 1
            if put == die_after:
                os.kill(os.getpid(), signal.SIGKILL)
    wait_for_the_end()


def consume(link: Link, diary: Path, handle: Handle, most: int | None = None) -> None:
    """Get and handle items, and write each down after that; after `most` of them, get no more, but live
    on."""
    consumer = link.consumer()
    mine = Diary(diary)
    done = 0
    while done != most:
        item = consumer.get()
        if item is None:
            mine.write(HELLO)
        else:
            mine.write(handle(item))
            done += 1
    wait_for_the_end()


def wait_for_the_end() -> None:
    while True:
        signal.pause()


def dawdle(item: int) -> int:
    """Half a millisecond of work."""
    time.sleep(0.0005)
    return item
