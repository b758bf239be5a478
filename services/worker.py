"""``python -m services.worker``: the same as ``nearfar worker``."""

import sys

from nearfar.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["worker", *sys.argv[1:]]))
