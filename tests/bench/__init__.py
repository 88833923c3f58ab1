"""Benchmarks: `python -m tests.bench` (tests/README.md). Nothing here is asserted by the test suite."""
