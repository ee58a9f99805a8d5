"""The experiment (`make loadtest`): every server under the same load, and the report on it.

May use the generators and what the rooms share, and knows Knot only by its command line.
"""
