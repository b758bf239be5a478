"""``python -m services.consumer``: the same as ``nearfar consumer``."""

import sys

from nearfar.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["consumer", *sys.argv[1:]]))
