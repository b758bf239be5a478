"""``python -m services.producer``: the same as ``nearfar producer``."""

import sys

from nearfar.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["producer", *sys.argv[1:]]))
