"""What is said of a calibration's latents, nulls and made directions, and which sentences the source's model bears out.

In: what was read, a verbalizer. Out: ``Judged``. Refuses what saying and weighing refuse. Resumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dragoman.calibration.cast import MADE, Cast, Said
from dragoman.calibration.ground import Facts, Ground, concept
from dragoman.calibration.made import mean_differences, mixtures
from dragoman.calibration.outcome import Asked, Outcome, Weigh, areas, by_embedder, dealt_sentences, judged
from dragoman.calibration.sizes import Sizes
from dragoman.core import Talk
from dragoman.dictionaries import Dictionary
from dragoman.embed import Embedder, LexicalEmbedder
from dragoman.models.language import Judge
from dragoman.models.load import fingerprint_of_model
from dragoman.models.weigh import last_word_rises
from dragoman.runs.options import Options
from dragoman.runs.readings import Readings, model_ref
from dragoman.scoring.judged_run import CachedEmbedder
from dragoman.store import digest
from dragoman.verbalizers.protocol import AnyVerbalizer


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """Texts; ``outcomes`` of their sentences and of ``dealt`` ones; areas by words alone (``second``)."""

    said: Sequence[Said]
    outcomes: Mapping[Asked, Outcome]
    dealt: Mapping[Asked, Outcome]
    second: Mapping[Asked, float]


def say_and_weigh(
    ground: Ground,
    dictionary: Dictionary,
    readings: Readings,
    by: AnyVerbalizer,
    options: Options,
    sizes: Sizes,
    work: Path,
) -> Judged:
    """Have everything said, and weigh the sentences by the source's own model."""
    talk, seed, facts = readings.talk, options.seed, ground.facts
    every, rows = (*facts.latents, *facts.extra), dictionary.rows()
    made = None
    if facts.words:
        made = mixtures(mean_differences(ground.pairs, list(facts.words), readings.source), rows, seed=seed)[0]
    many = np.diff(facts.fired.tocsc().indptr) / max(facts.fired.shape[0], 1)
    cast = Cast.of(
        ground.crossing, readings, options, rows.pick(every), ground.pairs, made,
        rates=dict(zip(every, many.tolist(), strict=True)), nulls=sizes.nulls, seed=seed,
    )  # fmt: skip
    _, said = cast.write(work / "run", by, talk)
    judge = Judge.open(model_ref(readings.source), dtype=readings.dtype, device=readings.device)
    plan = digest("rises-1", fingerprint_of_model(model_ref(readings.source)), readings.dtype)
    second = CachedEmbedder(LexicalEmbedder(ground.evidence))
    how = {"kept": work / "rises.jsonl", "plan": plan, "second": second, "talk": talk, "seed": seed}
    return weigh_said(said, facts, lambda s, w: last_word_rises(judge, s, w), sizes, **how)


def weigh_said(
    said: Sequence[Said],
    facts: Facts,
    weigh: Weigh,
    sizes: Sizes,
    *,
    kept: Path,
    plan: str,
    second: Embedder,
    talk: Talk,
    seed: int,
) -> Judged:
    """Weigh every sentence of a latent or a made direction on its windows, and others' on them too."""
    own = [ask for one in said if not one.null for ask in asked_of(one, facts)]
    by_kind: dict[str, dict[str, list[str]]] = {}
    for one in said:
        if not one.null and one.condition != MADE:
            for claim in one.told.claims:
                by_kind.setdefault(claim.kind, {}).setdefault(one.feature, []).append(claim.text)
    others = dealt_sentences(by_kind, list(facts.windows), sizes.dealt, seed=seed)
    asked = list(dict.fromkeys([*own, *others]))
    windows = sum(len(some) for kinds in facts.windows.values() for some in kinds.values())
    talk.say(f"weighing {len(asked)} sentences on {windows} windows of {len(facts.windows)} latents and words")
    found = areas(asked, facts.windows, weigh, kept, plan, talk.towards("sentences"))
    of_others = {one: found[one] for one in others if one in found}
    of_own = {one: found[one] for one in own if one in found}
    return Judged(
        said=said,
        outcomes=judged(of_own, of_others),
        dealt=judged(of_others, of_others),
        second=by_embedder(list(of_own), facts.windows, second),
    )


def asked_of(one: Said, facts: Facts) -> list[Asked]:
    """The sentences of a text on the windows that it is about; none where there are none."""
    feature = concept(one.feature.rsplit(" at ", 1)[0]) if one.condition == MADE else one.feature
    if feature not in facts.windows:
        return []
    return [Asked(claim.text, claim.kind, feature) for claim in one.told.claims]
