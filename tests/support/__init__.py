"""Helpers for tests: leaks are detected, and waiting has a bound."""
