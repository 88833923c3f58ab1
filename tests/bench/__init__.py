"""Benchmarks: `python -m tests.bench` (README.md beside this). Nothing here is asserted by the test suite."""
