"""Benchmarks of single operations: `make bench-knot` and `make bench-tame`.

May use what the rooms share, and Tame; knows Knot only by its command line.
"""
