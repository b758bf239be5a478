"""``python -m services.gallery``: the same as ``nearfar gallery``."""

import sys

from nearfar.__main__ import run

if __name__ == "__main__":
    run(["gallery", *sys.argv[1:]])
