"""What a process of Knot owns: its sockets, signals, rights and children.

Nothing here knows HTTP or the site that is served.
"""
