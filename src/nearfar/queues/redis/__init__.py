"""Queues in Redis or Valkey. This module can be imported without redis-py, as the others cannot."""

from __future__ import annotations

from nearfar.queues.base import Promises


def promises_of(*, durable: bool, synced: bool = False) -> Promises:
    """What a queue in Redis promises; `durable`: its server writes to disk (``appendonly yes``), and, if
    `synced`, before it replies (``appendfsync always``)."""
    return Promises(
        "redis",
        crosses_machines=True,
        redelivers=True,
        survives_killed_consumer=True,
        survives_killed_host=durable,
        counts_end=True,
        dead_letters=True,
        confirms_puts=True,
        durable=durable,
        survives_power_cut=synced,
    )
