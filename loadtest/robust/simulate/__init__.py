"""`make simulate`: a whole server in a simulated world, and clients that check every answer.

`truth.py` knows what the files were when, and what an answer must be; `plans.py` has what clients
do, and `clients.py` does and judges it; `server.py` is one seed from its beginning to its end;
`mutants.py` plants bugs, to see whether they are found.
"""
