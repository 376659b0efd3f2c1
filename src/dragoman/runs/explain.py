"""The main job: features of one model in another model's words, from a dictionary to a run folder.

In: a dictionary's features, a verbalizer, perhaps a crossing; route, washout, samples. Out: a ``Run``: rows, where the
features fire, confidences where some are calibrated. Refuses whatever reading, crossing, washing and verbalizing
refuses, and verbalizers in which the doctor finds a fault. Everything dear is kept in the cache under the digest of
what decides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dragoman.core import Refusal, Talk
from dragoman.dictionaries import Asked, Dictionary, Features
from dragoman.maps import Crossing
from dragoman.maps.crossing import Route
from dragoman.models.prompts import Activations
from dragoman.runs import prompted
from dragoman.runs.build import refuse_ended
from dragoman.runs.common import Common, chosen_of, tell_labels
from dragoman.runs.given import path_if_any, path_of, talk_of, verbalizer_of, washout_of, word_of
from dragoman.runs.grow import left_of
from dragoman.runs.identity import refuse_uncalibrated
from dragoman.runs.nulls import check_nulls
from dragoman.runs.options import AskedReading, MapKind
from dragoman.runs.plan import MAX_NEW_TOKENS
from dragoman.runs.progress import logged
from dragoman.runs.run import Run
from dragoman.runs.texts import Texts
from dragoman.store.outputs import check_run
from dragoman.verbalizers.protocol import AnyVerbalizer, HowFed


def explain(
    what: Features | Dictionary | Activations | str | Path,
    *,
    by: AnyVerbalizer | str | Path,
    out: str | Path,
    features: Sequence[str | int] | str | Asked | None = None,
    through: Crossing | str | Path | None = None,
    native: AnyVerbalizer | str | Path | None = None,
    contract: str | None = None,
    settings: Mapping[str, Any] | None = None,
    base: str | None = None,
    reading: AskedReading | None = None,
    route: Route | None = None,
    map: MapKind | None = None,
    washout: str | float = "on-shell",
    texts: Texts | Sequence[str] | str | Path | None = None,
    samples: int = 1,
    temperature: float | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int | None = None,
    seed: int = 0,
    nulls: int = 0,
    confidence: str | Path | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    engine: str = "auto",
    compiled: bool = False,
    on: str | None = None,
    workers: int | None = None,
    talk: Talk | None = None,
) -> Run:
    """Explain features of the source model by a verbalizer of another (or the same) model, into a run folder.

    Interrupted or killed, the same call goes on where it stopped. Asked again with other features into the same folder,
    it says those that the run there lacks.

    Args:
        what: features of an open dictionary, a dictionary, or its reference; or activations at tokens of prompts, see
            ``dragoman.activations``: they cross by the map alone, and no washout, confidence or reading is theirs.
        by: the verbalizer, or its reference.
        out: the run's folder, a new one or the same run's.
        features: ids, where ``what`` does not say which, or words such as "982,0-99" or "top:100" (see
            ``dragoman.dictionaries.asked``); all when None.
        through: a crossing that was fitted before, or its folder; fitted (and cached) when None.
        native: a verbalizer of the source model to compare with, or its reference.
        contract: how ``by`` is fed, where it is a reference whose files and the registry do not say.
        settings: what that contract leaves open.
        base: the model that the adapter of ``by`` sits on, if it names none.
        reading: "fires": what a feature fires on, by the direct route; "writes": what its row writes, by the map;
            "both", the default where the dictionary has an encoder: a condition each, under these names.
        route: one condition by this route in their place, see ``Crossing.carry``.
        map: what kind of crossing is fitted, see ``fit_crossing``.
        washout: how much of the target's background is mixed in, see ``dragoman.washout.wash``.
        texts: that both models read: a file, a folder, a data set of the hub, texts, or None for those that come with
            the embedded pair; see ``runs.texts.Texts.read``.
        samples: explanations per feature, of several the first greedy.
        temperature: what the others are drawn at; see ``Options``.
        max_new_tokens: of one explanation.
        batch_size: vectors handed over together; what suits the verbalizers' engine when None.
        seed: of all randomness.
        nulls: how many directions that mean nothing are said besides, in a folder "nulls" in the run's, for agreement
            of verbalizers to stand beside (see ``dragoman.rank``); 0, or 40 and more.
        confidence: a file of confidences, or a calibration; the confidences that lie beside the dictionary, if of this
            pair, when None.
        dtype: what is opened here computes in.
        device: what is opened here runs on.
        engine: what says the words of verbalizers opened here: auto, loop, captured, vllm (see ``models.engines``), or
            vllm:ADDRESS, a vLLM server that runs (see ``models.vllm.server``).
        compiled: whether the captured engine's step goes through ``torch.compile``.
        on: where verbalizers speak and texts are read token by token, if not in this process: "ray", workers on this
            machine's GPUs, or "ray://HOST:PORT", those of a Ray cluster; see ``models.ray_workers``.
        workers: how many, one a GPU when None (one a node where ``device`` is none).
        talk: where progress goes.

    Raises:
        Refusal: something is not as it must be; nothing is written by halves. Or a row ended every worker that was to
            say it: all others are written.
        Interrupted: on Ctrl-C; what was finished is on disk.
    """
    with logged(talk_of(talk)) as talk, ExitStack() as held:
        confidence = path_if_any(confidence, "confidence")
        out, options = path_of(out, "out"), {"reading": reading, "route": route, "washout": washout_of(washout)}
        options |= {"samples": samples, "temperature": temperature, "max_new_tokens": max_new_tokens}
        common = Common.of(
            verbalizer_of(by, "by"),
            None if native is None else verbalizer_of(native, "native"),
            fed=HowFed(contract=contract, settings=settings, base=base),
            options=options | {"batch_size": batch_size, "seed": seed},
            through=through,
            map=map,
            texts=texts,
            confidence=confidence,
            how={"dtype": dtype, "device": device, "engine": word_of(engine, "engine"), "compiled": compiled},
            on=None if on is None else word_of(on, "on"),
            workers=workers,
        )
        options, fitted = common.options, common.fitted
        if isinstance(what, Activations):
            prompted.refuse_of_features(options, features=features, confidence=confidence)
            if nulls:
                raise Refusal("nulls of activations", "agreement is told of features", "leave nulls out")
        check_run(out)
        check_nulls(nulls, out)
        common.check()
        common.texts.tell(talk)
        chosen, later = (what, None) if isinstance(what, Activations) else chosen_of(what, features, options, fitted)
        directions = chosen.directions
        common.refuse_absent(None if isinstance(chosen, Activations) else directions.site, directions.d_model)
        target = common.target
        if isinstance(chosen, Activations):
            prompted.refuse_early(directions.site, target, options, fitted, common.texts)
        else:
            common.refuse_early(chosen.dictionary, chosen.directions, later, target, out)
            if later is None:
                chosen = left_of(out, chosen)
            tell_labels(chosen.dictionary, talk)
        width, d_sae = directions.d_model, 0 if isinstance(chosen, Activations) else chosen.dictionary.d_sae
        pool, features_of = held.enter_context(common.cluster(talk)), len(directions.ids)
        common = common.opened(directions.site, target, talk, pool, width=width, d_sae=d_sae, features=features_of)
        if isinstance(chosen, Activations):
            readings, settings_of = common.readings(directions.site, talk), common.settings
            how = (options, fitted, out, settings_of)
            return Run(refuse_ended(prompted.written(chosen, readings, common.open_by, common.open_native, *how)))
        refuse_uncalibrated(confidence, chosen.dictionary, target, options, common.open_by)
        return common.explained(chosen, later, out, talk, nulls=nulls)
