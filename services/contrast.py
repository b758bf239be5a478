"""``python -m services.contrast``: the same as ``nearfar contrast``."""

import sys

from nearfar.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["contrast", *sys.argv[1:]]))
