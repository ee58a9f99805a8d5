"""Benchmarks of single operations: `make bench-knot` and `make bench-tame`."""
