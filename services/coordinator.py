"""``python -m services.coordinator``: the same as ``nearfar coordinator``."""

import sys

from nearfar.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["coordinator", *sys.argv[1:]]))
