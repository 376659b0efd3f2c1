"""A run's explanations in the layouts that other tools read.

In: a run as it is shown. Out: files; a copy of the run gives the same bytes. Refuses conditions and features that the
other tool has no place for. Nothing is uploaded, and no file tells where the run lies.
"""
