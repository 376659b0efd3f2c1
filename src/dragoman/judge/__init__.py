"""A finished run judged: against natives, every named null, planted truth, contexts, a reconstructor; and believed."""

from dragoman.judge.run import RULE, judge_run, judgeable
from dragoman.judge.said import dealt_to, first_samples
from dragoman.judge.trust import trusted

__all__ = ["RULE", "dealt_to", "first_samples", "judge_run", "judgeable", "trusted"]
