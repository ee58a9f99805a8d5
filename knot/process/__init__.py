"""What a process of Knot owns: its sockets, signals, rights and child processes.

This room imports no other room of Knot, and nothing in it knows HTTP or the site that is served.
What watches the workers is passed to the supervisor (`worker_process.Monitor`).
"""
