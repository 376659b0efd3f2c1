"""The doctor: what silently goes wrong between a dictionary and a verbalizer, found before it is read as an answer.

In: whatever of a run is at hand (`Subject`). Out: findings, each with what was measured, against what, and what to do.
`examine` runs every check, `quick` those that take seconds and refuses on the first fault. Imports no torch itself.
"""

from dragoman.doctor.examine import examine, open_subject, quick
from dragoman.doctor.finding import Finding
from dragoman.doctor.subject import Subject

__all__ = ["Finding", "Subject", "examine", "open_subject", "quick"]
