"""``python -m services.keys``: the same as ``nearfar keys``."""

import sys

from nearfar.__main__ import run

if __name__ == "__main__":
    run(["keys", *sys.argv[1:]])
