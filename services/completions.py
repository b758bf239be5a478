"""``python -m services.completions``: the same as ``nearfar completions``."""

import sys

from nearfar.__main__ import run

if __name__ == "__main__":
    run(["completions", *sys.argv[1:]])
