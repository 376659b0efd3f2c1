"""Finished runs beside one another: two settings paired by feature, several verbalizers in one table.

In: run folders of one dictionary. Out: differences with interval, test and the number of tests; a table in which what
is not told apart shares a place; the same as a static page. Refuses runs of other dictionaries, of other targets where
two settings are compared, and runs without shared features. Nothing is said or read anew: what a run was not scored
for is named as missing.
"""

from dragoman.comparison.paired import compare_runs

__all__ = ["compare_runs"]
