"""What a server withstands: `make attack`, `make fuzz`, `make soak` and `make simulate`.

May use what the rooms share, Tame, and Knot from within: the fuzzer calls its parts, and the
simulation replaces the system under it.
"""
