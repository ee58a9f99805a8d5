"""Files below one directory: found safely, read, compressed, listed.

Nothing here knows HTTP or sockets, or waits for the contents of a file.
"""
