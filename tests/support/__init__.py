"""Helpers for tests: what outlives a test is found, and waiting has a bound."""
