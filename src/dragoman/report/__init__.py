"""The run folder made readable: one static page.

In: a run folder (manifest.json, rows.jsonl, scores.json). Out: one self-contained HTML file. Refuses what is not a run.
It knows nothing of how the run was made, and computes no number: it only sorts and formats.
"""

from dragoman.report.page import write_page

__all__ = ["write_page"]
