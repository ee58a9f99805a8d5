"""What shows how a server is doing: the access log, metrics, and what every connection waits for.

This room watches a server and changes nothing that clients see.
"""
