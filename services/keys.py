"""``python -m services.keys``: the same as ``nearfar keys``."""

import sys

from nearfar.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["keys", *sys.argv[1:]]))
