"""Who may have what: gates in front of a site, and what they decide by.

No sockets, no waiting.  Only `passwords` reads a file, on a thread that may wait.
"""
