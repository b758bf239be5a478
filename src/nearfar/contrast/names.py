"""What the contestants are called, in the order in which they are shown."""

from __future__ import annotations

QUEUE = "multiprocessing.Queue"
"""The yardstick of the queues."""
RAW = "PUSH/PULL"
NEAR = "near"
FAR_IPC = "far ipc"
FAR_TCP = "far tcp"
QUEUES = (QUEUE, RAW, NEAR, FAR_IPC, FAR_TCP)

POOL = "multiprocessing.Pool"
"""The yardstick of the pools."""
EXECUTOR = "ProcessPoolExecutor"
POOLS = (POOL, EXECUTOR, NEAR, FAR_IPC, FAR_TCP)
