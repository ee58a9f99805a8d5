"""What shows how a server does: the access log, metrics, and who waits for what.

It watches a server and changes nothing.
"""
