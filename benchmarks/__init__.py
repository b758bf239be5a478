"""Measurements against what others use, on loopback only. The programs: ``python -m benchmarks.NAME``."""
