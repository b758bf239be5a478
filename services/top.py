"""``python -m services.top``: the same as ``nearfar top``."""

import sys

from nearfar.__main__ import run

if __name__ == "__main__":
    run(["top", *sys.argv[1:]])
