"""``python -m services.queue``: the same as ``nearfar queue``."""

import sys

from nearfar.__main__ import run

if __name__ == "__main__":
    run(["queue", *sys.argv[1:]])
