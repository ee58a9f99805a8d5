"""`make simulate`: a whole server in a simulated world, and clients that check every answer.

`truth.py` records what each file was at any time and says what an answer must be; `plans.py` has
what clients do, `clients.py` does it and judges the server; `server.py` runs one seed;
`mutants.py` plants bugs, to see whether they are found.
"""
