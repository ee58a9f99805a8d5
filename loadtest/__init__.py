"""Measuring `tame` and `knot`: what each figure in the documentation comes from."""
