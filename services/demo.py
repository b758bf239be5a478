"""``python -m services.demo``: the same as ``nearfar demo``."""

import sys

from nearfar.__main__ import run

if __name__ == "__main__":
    run(["demo", *sys.argv[1:]])
