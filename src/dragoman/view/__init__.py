"""A run to read in a browser: pages on this machine alone, an index for search, the same as static files.

In: run folders. Out: an index beside each run (`index`, `build`), pages of it (`pages`), a server on 127.0.0.1 (`app`)
or a folder of files (`bundle`), a selection as a table (`tables`). Refuses what is no run, requests from elsewhere, and
a selection the run does not have. Nothing of a run is written to; Starlette and uvicorn are imported by `app` alone.
"""
