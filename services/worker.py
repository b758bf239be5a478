"""``python -m services.worker``: the same as ``nearfar worker``."""

import sys

from nearfar.__main__ import run

if __name__ == "__main__":
    run(["worker", *sys.argv[1:]])
