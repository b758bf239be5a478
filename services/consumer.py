"""``python -m services.consumer``: the same as ``nearfar consumer``."""

import sys

from nearfar.__main__ import run

if __name__ == "__main__":
    run(["consumer", *sys.argv[1:]])
