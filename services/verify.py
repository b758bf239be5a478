"""``python -m services.verify``: the same as ``nearfar verify``."""

import sys

from nearfar.__main__ import run

if __name__ == "__main__":
    run(["verify", *sys.argv[1:]])
