"""The questions the seed post left open, each a command: prepared, said, read back, judged, drawn.

``ground`` the two directions of the pair and their planted truth; ``library`` what is read, once; ``cast`` conditions
and their run; one module a question: ``post``, ``procrustes``, ``data``, ``depth``, ``strength``, ``drift``, ``trust``;
``run`` from a name to rows; ``reading`` what models read off the texts; ``judged`` and ``results`` what comes of it.
"""
