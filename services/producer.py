"""``python -m services.producer``: the same as ``nearfar producer``."""

import sys

from nearfar.__main__ import run

if __name__ == "__main__":
    run(["producer", *sys.argv[1:]])
