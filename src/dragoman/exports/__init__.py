"""A run's explanations in the layouts that other tools read.

In: a run as it is shown. Out: files; a copy of the run gives the same bytes. Refuses conditions and features that the
other tool has no place for. Nothing is uploaded, and no file tells where the run lies.
"""

from dragoman.exports.circuit import cantor, labelled_graph, write_circuit
from dragoman.exports.delphi import write_delphi
from dragoman.exports.entries import Entry, entries_of_run
from dragoman.exports.hub import write_dataset
from dragoman.exports.tables import write_csv, write_parquet

__all__ = [
    "Entry",
    "cantor",
    "entries_of_run",
    "labelled_graph",
    "write_circuit",
    "write_csv",
    "write_dataset",
    "write_delphi",
    "write_parquet",
]
