"""Measuring `tame` and `knot`: the source of each figure in the documentation.

Four rooms: `generators` make a load, `experiment` compares servers under it, `micro` has the
benchmarks of single operations, `robust` attacks, fuzzes, soaks and simulates.  The modules beside
this one are what they share; they use no room.  ``python -m loadtest`` is the experiment.
"""
