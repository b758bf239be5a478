"""``python -m services.contrast``: the same as ``nearfar contrast``."""

import sys

from nearfar.__main__ import run

if __name__ == "__main__":
    run(["contrast", *sys.argv[1:]])
