"""Knot: a static-file web server written in Tame."""
