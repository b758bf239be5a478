"""``python -m services.config``: the same as ``nearfar config``."""

import sys

from nearfar.__main__ import run

if __name__ == "__main__":
    run(["config", *sys.argv[1:]])
