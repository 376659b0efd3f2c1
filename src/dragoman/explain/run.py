"""The main job: features of one model in another model's words, from references to a run folder.

In: a ``Request`` of plain words (dictionary, features, verbalizer, route, washout). Out: a run folder with rows, where
the features fire, and what was reused. Refuses whatever the rooms below refuse, and verbalizers in which the doctor
finds a fault. Everything dear is kept in the cache under the digest of what decides it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dragoman import study
from dragoman.addresses import public_address
from dragoman.core import Directions, Site
from dragoman.dictionaries import Dictionary
from dragoman.doctor import quick
from dragoman.explain.contexts import contexts_of
from dragoman.explain.crossing import Crossing, crossing
from dragoman.explain.manifest import background_report, own_version, settings_of, versions
from dragoman.explain.open import (
    open_for,
    open_verbalizer,
    refuse_few_texts,
    refuse_odd_beside,
    refuse_unusable_encoder,
    tell_dead,
    tell_labels,
)
from dragoman.explain.request import Request, Talk, needs_encoder
from dragoman.models.device import check_device
from dragoman.records import SOURCE_ROWS
from dragoman.store import RunFolder, digest
from dragoman.store.outputs import check_run
from dragoman.verbalizers.protocol import AnyVerbalizer
from dragoman.washout import wash


def explain(request: Request, out: Path, talk: Talk | None = None) -> RunFolder:
    """Explain features of the source model by a verbalizer of another (or the same) model into a run folder.

    Interrupted or killed, the same call goes on where it stopped.

    Raises:
        Refusal: one of the rooms below refused; nothing is written by halves.
    """
    talk = talk or Talk()
    request.check()
    check_run(out)
    study.check_samples(request.samples, request.drawn_at)
    check_device(request.device)
    refuse_few_texts(request)  # before models are opened, which takes long
    dictionary = open_for(request)
    refuse_odd_beside(dictionary)
    directions = dictionary.features(request.features or None).directions
    tell_labels(dictionary, talk)
    talk.say(f"opening verbalizer {public_address(request.by)}")

    def check(target: Site) -> None:
        refuse_few_texts(request, directions.site, target)
        if directions.site != target and needs_encoder(request):
            refuse_unusable_encoder(dictionary, request)

    verbalizers: dict[str, AnyVerbalizer] = {"by": open_verbalizer(request.by, request, told=check)}
    if request.native:
        verbalizers["native"] = open_verbalizer(request.native, request, native=True)
    talk.say("checking the verbalizers")
    quick(verbalizers.values())
    target = verbalizers["by"].site
    if request.map != "aligned" or directions.site == target:
        tell_dead(directions, talk)
    cross, _ = crossing(dictionary, request, directions.site, target, [request.route], talk)
    carried, cards = cross.carry(directions, request.route)
    vectors = wash(carried, cross.background, request.washout)
    route = request.route if directions.site != target else "identity"
    bare_name = "plain" if request.washout == "none" else "washed"
    name = bare_name if route in ("map", "identity") else route
    conditions = [study.Condition.of(name, carried, "by", vectors=vectors, cards=cards)]
    told = [{"name": name, "route": route, "map": request.map, "washout": request.washout, "verbalizer": request.by}]
    if request.native:
        # Native and foreign are fed alike: a bare decoder row is as far off one model's shell as off the other's.
        own = wash(directions, cross.source_background, request.washout)
        conditions.insert(0, study.Condition.of("native", directions, "native", vectors=own))
        told.insert(
            0, {"name": "native", "route": "identity", "washout": request.washout, "verbalizer": request.native}
        )
    run = carry_out(
        dictionary, request, directions, cross, conditions, told, verbalizers, out, talk, bare={name: carried}
    )
    windows = contexts_of(cross, request, directions.ids)
    if windows is not None:
        run.write_contexts(windows)
    return run


def carry_out(
    dictionary: Dictionary,
    request: Request,
    directions: Directions,
    cross: Crossing,
    conditions: list[study.Condition],
    told: list[dict[str, Any]],
    verbalizers: dict[str, AnyVerbalizer],
    out: Path,
    talk: Talk,
    more: Mapping[str, Any] | None = None,
    *,
    bare: Mapping[str, Directions],
) -> RunFolder:
    """Write the manifest, verbalize what is missing, keep the vectors.

    ``bare``: condition -> directions at the target before any washout, which a reconstructor there is asked for.
    """
    plan = study.Plan(
        conditions=tuple(conditions),
        batch_size=request.batch_size,
        samples=request.samples,
        seed=request.seed,
        temperature=request.drawn_at,
        max_new_tokens=request.max_new_tokens,
    )
    manifest = {
        "dragoman": own_version(),
        "source": str(directions.site),
        "target": str(cross.target),
        "dictionary": _dictionary(dictionary, directions) | _dead(directions.dead or cross.dead),
        "conditions": told,
        "features": list(directions.ids),
        "settings": settings_of(request),
        "digests": dict(cross.digests),
        "verbalizers": {key: v.identity for key, v in verbalizers.items()},
        "versions": versions(),
        "seeds": {"seed": request.seed},
        "plan_digest": plan.digest(verbalizers),
        "map_report": {cross.map.method: cross.map.report["held_out"]} if cross.map else {},
        "background": background_report(cross.background),
        **({"labels": told_labels} if (told_labels := dictionary.labelled.to_json()) else {}),
        "about": {"left_out": {side: dict(counts) for side, counts in cross.left_out.items()}}
        if cross.left_out
        else {},
        **(dictionary.truth.of(directions.ids) if dictionary.truth is not None else {}),
        **(more or {}),
    }
    run = RunFolder.create(out, manifest)
    done = study.carry_out(plan, run, verbalizers, talk.bar)
    if done.reused:
        talk.say(f"kept {done.reused} rows that were there, made {done.made}")
    kept = {c.name: c.vectors for c in conditions} | {f"bare/{name}": d.unit for name, d in bare.items()}
    run.write_vectors(kept | {SOURCE_ROWS: directions.unit})
    return run


def _dead(dead: tuple[str, ...]) -> dict[str, Any]:
    """How many of the dictionary's features were set aside because they have no direction, where there are any."""
    return {"dead": len(dead)} if dead else {}


def _dictionary(dictionary: Dictionary, directions: Directions) -> dict[str, str]:
    """What was asked for, where it was read, and a digest: of a packaged folder, else of the rows that were read."""
    where = dictionary.where
    if isinstance(where, Path):
        return {"ref": dictionary.ref, "digest": digest(where)}
    return {"ref": dictionary.ref, "at": str(where), "digest": digest(str(where), directions.unit)}
