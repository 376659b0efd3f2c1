"""What the page calls things: conditions, statuses, diagnostics and flags, each in a line a reader can use.

In: names as a run folder holds them. Out: words. Refuses nothing: a name nobody knows stands for itself, so whatever
the folder holds must be escaped where it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dragoman.core import Estimate
from dragoman.records import ENDED, UNUSABLE_MAP, ConditionEntry
from dragoman.verbalizers.protocol import STOCK_PHRASES

SHOWN = (
    "native",
    "fires",
    "writes",
    "plain",
    "washed",
    "direct",
)  # the order in which conditions stand side by side; others follow
HEADLINE = (
    "fires",
    "writes",
    "auto",
    "washed",
    "direct",
    "dictionary",
    "blend",
    "plain",
)  # who speaks for a run: the first there is

TITLES = {"fires": "fires on", "writes": "writes"}  # of a feature's two readings
CONDITIONS = {
    "fires": "what the feature fires on: the target’s own average activation where the feature fires; no map is used",
    "writes": "what the feature’s row writes: the row carried by the map, whenever the feature fires or not",
    "native": "the source model’s own verbalizer reads the direction where it was found; lift is measured against "
    "these texts",
    "native_plain": "the native verbalizer reads the bare direction, as the post had it",
    "plain": "the direction is carried into the target model and read there as it is",
    "washed": "carried, then turned towards the target’s average activation so that it resembles one, then read",
    "direct": "the target’s own average activation where the feature fires; no map is used",
    "dictionary": "the target’s activation where the feature fires, with all other features held fixed; no map is used",
    "blend": "halfway between the carried direction and the direct one",
    "auto": "each direction by the route its diagnostics speak for, map or direct",
    "procrustes": "carried by a rotation (Procrustes) instead of a ridge regression",
    "activation": "an activation of the source at a token of a prompt, carried by the whole affine map, then read",
    "random": "a control, a direction drawn at random and treated the same way; it should score nothing",
    "shuffled": "a control, another feature’s direction under this feature’s name",
}
AT_HOME = {
    "plain": "the direction is read in the model it was found in, as it is",
    "activation": "an activation at a token of a prompt, read in the model it was found in, as it is",
    "washed": "turned towards the model’s average activation so that it resembles one, then read in the same model",
}

STATUSES = {
    "ok": "it crossed: both routes agree on it and nothing speaks against it",
    "weak": "it crossed, but little of it, or on thin evidence",
    "unverified": "it fires too rarely, or is not watched, so only the map’s word stands for it",
    "differs": "its two readings differ: what its row writes is nearer to where another feature fires; this "
    "tells of the feature, and is no fault",
    "no map": "read where the feature fires in the target, without the map; a verdict on the map’s image is none on it",
}
UNMAPPED = ("direct", "dictionary")  # routes that go round the map

# name: (what it is called, what it means); the order is the page's
DIAGNOSTICS = {
    "coverage": ("coverage", "share of the direction that the map explains; 1 is all of it"),
    "coverage_over_random": ("coverage against random", "share of random directions that the map explains less of"),
    "coverage_over_dictionary": (
        "coverage in the dictionary",
        "share of the dictionary’s features it explains less of",
    ),
    "kappa": ("kappa", "cosine between the direction and the part of it that the map keeps"),
    "rel": ("reliability", "how little other texts would turn what arrived; below 0.7 is doubtful"),
    "cycle": ("round trip", "cosine with the direction after the map there and the map back"),
    "cycle_over_dictionary": (
        "round trip in the dictionary",
        "share of the dictionary’s features that come back worse",
    ),
    "purity": ("purity", "the feature’s own part of the mixture of features that arrived"),
    "n_eff": ("effective documents", "how many documents it fires in, counting faint ones for less; 20 are the least"),
    "agreement": ("agreement", "cosine of the map’s image with the target’s average where the feature fires"),
    "margin": ("margin", "agreement less that with the nearest other feature; at or below 0 the two readings differ"),
    "nearest": ("nearest other", "the other feature that the map’s image lies nearest to"),
    "home_agreement": (
        "agreement at home",
        "cosine of the direction itself with the source’s own average where the feature fires; no map is used",
    ),
    "home_margin": (
        "margin at home",
        "agreement at home less that with the nearest other feature; at or below 0 the row was turned, swapped or "
        "misnamed before it crossed",
    ),
    "home_nearest": (
        "nearest other at home",
        "the other feature whose average in the source the direction itself lies nearest to",
    ),
    "norm": ("length", "of the carried direction before it is made a unit; short ones are mostly noise"),
}
SHARES = ("coverage_over_random", "coverage_over_dictionary", "cycle_over_dictionary")

PROBLEMS = {
    "no opening tag": "it did not begin its answer as it was trained to",
    "no closing tag": "it was cut off, or never ended its answer",
    "no closing quotation mark": "it was cut off, or never ended its answer",
    "other script": "part of it is in another script, as when the marker’s own embedding is read",
    "repeats itself": "it says the same thing over and over",
    "empty": "there is not a word in it",
    ENDED: "every worker that was to say it ended, so nothing was said",
    UNUSABLE_MAP: "the map that carried it is no better than none, so it tells nothing of the feature",
} | {phrase.name: f"a stock phrase of {phrase.whose}" for phrase in STOCK_PHRASES}

MARKS = {
    "named": "category named",
    "missed": "category not named",
    "astray": "another direction read back first",
    "answered": "answered for",
    "abstained": "abstained from",
    "flagged": "text flagged",
}


@dataclass(frozen=True, slots=True)
class Controls:
    """The conditions that a manifest marks as nulls: ``names``; and ``random``, those of random directions."""

    names: frozenset[str] = frozenset()
    random: frozenset[str] = frozenset()

    @classmethod
    def of(cls, conditions: Iterable[ConditionEntry]) -> Controls:
        """Of a manifest's entries, by their role; a condition's name says nothing."""
        nulls = {entry.name: entry.null for entry in conditions if entry.is_null}
        return cls(frozenset(nulls), frozenset(name for name, null in nulls.items() if null == "random directions"))

    def __contains__(self, condition: object) -> bool:
        """Whether a condition is there only to show what nothing scores."""
        return condition in self.names


def in_order(names: Iterable[str], wanted: Sequence[str]) -> list[str]:
    """The names, each once: those of ``wanted`` first and in its order, then the others as they came."""
    have = list(dict.fromkeys(names))
    return list(dict.fromkeys([*(n for n in wanted if n in have), *have]))


def spokesman(conditions: Iterable[str], controls: Controls) -> str | None:
    """The condition that speaks for a run or a feature: chosen by name, never by score; controls never speak."""
    have = [c for c in conditions if c not in controls]
    return next((c for c in in_order(have, HEADLINE) if c != "native"), "native" if "native" in have else None)


def condition_words(name: str, *, at_home: bool = False) -> str:
    """What a condition is, from its name or the parts of it; ``at_home`` when source and target are one model."""
    known = CONDITIONS | AT_HOME if at_home else CONDITIONS
    parts = [name] if name in known else name.split("_")
    return "; ".join(known[part] for part in parts if part in known) or "a condition of this run"


def title(condition: str) -> str:
    """A reading as it is called before a text; any other condition by its name."""
    return TITLES.get(condition, condition)


def problem_words(problem: str) -> str:
    """A flag and what it means; one nobody knows stands alone."""
    return f"{problem} ({PROBLEMS[problem]})" if problem in PROBLEMS else problem


def beside_labels(over: Estimate) -> str:
    """Whether texts tell more than labels from contexts, by how much they do (`LabelScores.over`)."""
    if over.low > 0:
        return "these texts tell more than a label from contexts"
    if over.high < 0:
        return "a label from contexts tells more than these texts"
    return "these texts do not beat a label from contexts"


BACKGROUND_ALONE = "its row there is nothing but background, so nothing of it is explained"


def too_rare(documents: float | None, least: float) -> str:
    """Why a feature has no reading of what it fires on; ``documents`` are effective ones, None where nobody counted."""
    if documents is None:
        return "was not watched, so nobody counted where it fires"
    written = f"{documents:.0f}" if round(documents) < least else f"{documents:.1f}"
    return f"fires in {written} effective document{'' if written == '1' else 's'}, {least:g} are needed"


# Measures of features: what each is called, and what it is. ``dealt`` is the same with texts or rows of other features.
MEASURES: dict[str, tuple[str, str]] = {
    "firing_word": (
        "firing word",
        "share of texts that quote the one word that has 70 % of the feature's activation, of features that have one",
    ),
    "final_token": ("final token", "share of them that call it the final token"),
    "lens_overlap": (
        "lens words",
        "of the 20 words that the feature's own row writes most, how many the row that arrived writes as well",
    ),
    "steering": (
        "steering",
        "added to the target's stream, how often the row raises the 20 words that its own feature's row writes above "
        "another feature's 20",
    ),
    "generation": (
        "generation",
        "how often a feature fires more on passages that its own model writes from its text than another feature does",
    ),
}
