"""Which directions a reconstructor should find in a run's texts, and the scores of what it finds.

In: a run, an open reconstructor. Out: Directions at its site, the part "reconstruction" of the scores. Refuses a site
at which the run has no directions, and a run of which no condition can be scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dragoman.core import Directions, Floats, Refusal, Site, refuse_other_site
from dragoman.records import SOURCE_ROWS, Row
from dragoman.scores import FeatureReadBack, Reconstruction, ReconstructionRow
from dragoman.scoring.judged_run import BLOCK, EMPTY, FEWEST, JudgedRun, blocks_of
from dragoman.stats.reconstruct import among_drawn, centred_cosines, per_direction, reconstruction_estimates
from dragoman.store.manifests import required

if TYPE_CHECKING:
    from dragoman.models.reconstruct import Reconstructor


def sought_directions(run: JudgedRun, site: Site) -> Directions | dict[str, Directions]:
    """What a reconstructor at ``site`` should find: the dictionary's own rows, or the carried ones before washout.

    Raises:
        Refusal: the run has directions at neither.
    """
    source, target = run.source, run.target
    kept, _ = run.folder.vectors()
    if (site.model, site.block) == (source.model, source.block):
        if SOURCE_ROWS not in kept:
            raise Refusal(
                f"{run.folder.path}",
                "it does not hold its dictionary's rows",
                "give the command that made it once more: it keeps what was said, and adds them",
            )
        features = required(run.folder.path / "manifest.json", run.folder.manifest, "features")
        return Directions.of(source, kept[SOURCE_ROWS], features)
    if (site.model, site.block) != (target.model, target.block):
        raise Refusal(
            f"a reconstructor at {site}",
            f"the run's directions are at {source} and {target}",
            "use a reconstructor of one of these",
        )
    bare = {name.removeprefix("bare/"): rows for name, rows in kept.items() if name.startswith("bare/")}
    order = {c: list(dict.fromkeys(row.feature for row in run.rows if row.condition == c)) for c in bare}
    return {c: Directions.of(target, rows, order[c]) for c, rows in bare.items() if order[c]}


def reconstruction_scores(
    rows: Sequence[Row],
    directions: Directions | Mapping[str, Directions],
    reconstructor: Reconstructor,
    *,
    seed: int = 0,
    topics: Mapping[str, Any] | None = None,
    among: Mapping[str, Mapping[str, str]] | None = None,
) -> Reconstruction:
    """Judge a run's texts by a reconstructor of the source model or of the target model; no native AV is needed.

    A source AR is held against the dictionary's own directions, whoever said the text: no map is in the scorer then.
    A target AR is held against the directions as they arrived, before washout: it judges the words and is blind to
    what the map lost. Outputs are centred on the mean over the texts of their own condition: what these share is style.
    Conditions with fewer than three texts of known directions (random ones, as a rule) are left out.

    Args:
        rows: rows of a run; the first sample of each feature counts.
        directions: at the reconstructor's site, by id; one set for all conditions, or one per condition.
        reconstructor: reads every different text once, of those that are not drawn once in each block.
        seed: of the permutations.
        topics: id to topic, when intervals are to be over topics.
        among: by condition those drawn, where each text cannot be held against all directions: estimates are of them,
            and every other text stands beside their directions and its own.

    Raises:
        Refusal: no condition can be scored, or the directions are at another site.
    """
    first = _first_texts(rows, directions, reconstructor.name)
    drawn = first if among is None else _of_these(first, among)
    sets = {c: (directions if isinstance(directions, Directions) else directions[c]) for c in drawn}
    for some in sets.values():
        refuse_other_site("directions", some.site, reconstructor.site)
    distinct = list(dict.fromkeys(text for texts in drawn.values() for text in texts.values()))
    outputs = dict(zip(distinct, reconstructor.reconstruct(distinct), strict=True))
    table, per_feature = list[ReconstructionRow](), dict[str, tuple[FeatureReadBack, ...]]()
    for condition, texts in drawn.items():
        chosen, read = sets[condition].pick(texts), np.stack([outputs[t] for t in texts.values()])
        s = centred_cosines(read, chosen, site=reconstructor.site)
        rng, groups = np.random.default_rng(seed), _groups(texts, topics)
        estimates = reconstruction_estimates(s, chosen, rng=rng, topics=groups)
        table.append(ReconstructionRow(condition=condition, n=len(texts), **estimates))
        found = {one["feature"]: FeatureReadBack(**one) for one in per_direction(s, chosen)}
        others = {f: text for f, text in first[condition].items() if f not in found}
        shuffled = estimates["cosine"].extra["shuffled"]
        for some in blocks_of(list(others), BLOCK):
            made = _read(reconstructor, [others[f] for f in some])
            each = among_drawn(made, sets[condition].pick(some), read, chosen, shuffled)
            found |= {one["feature"]: FeatureReadBack(**one) for one in each}
        per_feature[condition] = tuple(found[f] for f in first[condition])
    return Reconstruction(
        reconstructor=reconstructor.name,
        site=str(reconstructor.site),
        identity=reconstructor.identity,
        table=tuple(table),
        per_feature=per_feature,
    )


def _of_these(
    first: Mapping[str, Mapping[str, str]], among: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """Those drawn, of the conditions that have three of them."""
    few = {c: {f: text for f, text in by.items() if f in among.get(c, ())} for c, by in first.items()}
    return {condition: by for condition, by in few.items() if len(by) >= FEWEST}


def _read(reconstructor: Reconstructor, texts: Sequence[str]) -> Floats:
    """(n, d) of n texts, every different one read once."""
    distinct = list(dict.fromkeys(texts))
    outputs = dict(zip(distinct, reconstructor.reconstruct(distinct), strict=True))
    return np.stack([outputs[text] for text in texts])


def _first_texts(
    rows: Sequence[Row], directions: Directions | Mapping[str, Directions], name: str
) -> dict[str, dict[str, str]]:
    """Condition -> feature -> text, first samples of known directions; conditions with three of them at least.

    Raises:
        Refusal: there is no such condition.
    """
    texts: dict[str, dict[str, str]] = {}
    every = {"": directions} if isinstance(directions, Directions) else directions
    ids = {condition: set(one.ids) for condition, one in every.items()}
    for row in rows:
        known = ids.get("" if isinstance(directions, Directions) else row.condition, ())
        if row.sample == 0 and row.feature in known:
            # A reconstructor refuses empty text; an empty explanation is a bad one, not a missing one.
            texts.setdefault(row.condition, {})[row.feature] = row.text.strip() or EMPTY
    texts = {condition: by_feature for condition, by_feature in texts.items() if len(by_feature) >= FEWEST}
    if not texts:
        raise Refusal(
            f"scores by {name}",
            "no condition has texts of three of the directions",
            "pass directions with the ids of the run's features",
        )
    return texts


def _groups(texts: Mapping[str, str], topics: Mapping[str, Any] | None) -> list[Any] | None:
    """Topics of the features of ``texts``; None where one has none, or they are all alike or all different."""
    if not topics or not all(feature in topics for feature in texts):
        return None
    groups = [topics[feature] for feature in texts]
    return groups if 1 < len(set(groups)) < len(groups) else None
