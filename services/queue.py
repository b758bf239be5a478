"""``python -m services.queue``: the same as ``nearfar queue``."""

import sys

from nearfar.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["queue", *sys.argv[1:]]))
