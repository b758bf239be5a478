"""``python -m services.coordinator``: the same as ``nearfar coordinator``."""

import sys

from nearfar.__main__ import run

if __name__ == "__main__":
    run(["coordinator", *sys.argv[1:]])
