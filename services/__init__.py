"""The programs as a clone runs them: ``python -m services.<name>`` is ``nearfar <name>``.

Not in the wheel.
"""
