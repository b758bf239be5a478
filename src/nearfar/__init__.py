"""nearfar: one queue and one pool, near or far."""

__version__ = "0.1.0.dev0"
