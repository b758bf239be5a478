"""The programs as a clone runs them: ``python -m services.<name>`` is ``nearfar <name>``.

Not in the wheel.
"""

import sys
from importlib.util import find_spec

if find_spec("nearfar") is None:
    sys.exit("nearfar is not installed in this Python: run make demo once, and then . .venv/bin/activate")
