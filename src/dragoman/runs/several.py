"""The main job for several dictionaries of one model: a run each in one folder, the verbalizers opened once for all.

In: dictionaries as they are named, what is asked of each, what ``explain`` takes. Out: a ``Run`` each in a folder that
``runs.json`` describes, or a refusal in its place where one dictionary alone comes to an end. Refuses, before any model
is opened, whatever of any of them can be told by words, sizes and headers: what ``explain`` refuses early, dictionaries
of several models, crossings, labels and calibrations, which are of one dictionary alone.

One dictionary after the other: texts are read, a crossing is fitted and words are said for the first before the second
is looked at, so a run that is done stays done whatever comes later, and one that cannot be done holds up no other.
What was finished before is not opened again.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dragoman.confidence.calibration import is_calibration
from dragoman.core import Interrupted, Refusal, Site, Talk, public_address, refuse_other_site
from dragoman.dictionaries import Asked, Dictionary, open_dictionary
from dragoman.dictionaries.several import folder_names, identity
from dragoman.models.decode import site_of_verbalizer
from dragoman.runs.common import Common, chosen_of, tell_labels
from dragoman.runs.forecast import Forecast, ModelForecast
from dragoman.runs.grow import left_of
from dragoman.runs.order import readers_stay
from dragoman.runs.progress import logged
from dragoman.runs.readings import Held
from dragoman.runs.run import Run
from dragoman.store import RunFolder, digest, read_json, stable_json
from dragoman.store.outputs import check_folder, check_run
from dragoman.store.runsets import RunSet, SetEntry, check_set, entries_in_order, locked
from dragoman.store.spans import shown
from dragoman.verbalizers.protocol import AnyVerbalizer

_STAY = "models that are read stay open beside those that speak where three quarters of the free memory hold them all"


@dataclass(frozen=True, kw_only=True, eq=False)
class Named:
    """A dictionary, what is asked of it (all of it when None), and the name of its run's folder."""

    name: str
    dictionary: Dictionary
    features: Asked | Sequence[str] | None = None

    @property
    def words(self) -> str:
        """What is asked, as one text: the ids of a file, not its name."""
        asked = self.features
        return asked.spelled_out if isinstance(asked, Asked) else "all" if asked is None else ",".join(asked)


def opened(refs: Sequence[str], source: str | None, out: Path, **read_as: Any) -> list[Named]:
    """Dictionaries of one model, each under the name of its run in ``out``; of their numbers nothing is read.

    Args:
        refs: of the dictionaries.
        source: the model that all are of, MODEL or MODEL@REVISION, where they do not say it.
        out: the folder of runs.
        read_as: as of ``open_dictionary``, for each.

    Raises:
        Refusal: one cannot be opened or does not say its block, two are one, or they are of several models.
    """
    if read_as.get("labels") is not None:
        what = f"labels beside {len(refs)} dictionaries"
        raise Refusal(what, "an export has those of one", "leave --labels out, or explain one at a time")
    model, revision = _model_of(source)
    before = check_set(check_folder(out))
    names = folder_names(refs, {one.dictionary: one.name for one in before.runs} if before else {})
    found = list[Named]()
    for ref, name in zip(refs, names, strict=True):
        with _of(ref):
            dictionary = open_dictionary(ref, **read_as)
            if model is not None:
                dictionary = replace(dictionary, asked_site=_at(dictionary, model, revision))
            _ = dictionary.site
        found.append(Named(name=name, dictionary=dictionary))
    stated = {
        name.rpartition("/")[2].casefold(): name for one in found if (name := one.dictionary.weights.stated.model)
    }
    models = list(dict.fromkeys(one.dictionary.site.model for one in found))
    models = models if len(models) > 1 else list(stated.values())  # one model may go by a long and a short name
    if len(models) > 1:
        why = f"they are of several models ({shown(', '.join(models), 200)}), and one is read here"
        raise Refusal(f"{len(found)} dictionaries", why, "explain those of each model in a folder of their own")
    return found


def _model_of(source: str | None) -> tuple[str | None, str | None]:
    """A model's name and revision; refuse a site, whose block could be that of one dictionary alone."""
    if source is None:
        return None, None
    try:
        site = Site.parse(source)
    except Refusal:
        model, _, revision = source.strip().partition("@")
        return model, revision or None
    raise Refusal(f"--source {shown(source)}", "every dictionary has a block of its own", f"say --source {site.model}")


def _at(dictionary: Dictionary, model: str, revision: str | None) -> Site:
    block = dictionary.weights.stated.block
    if block is None:
        raise Refusal(dictionary.name, "its files do not say its block", "explain it alone, with --source MODEL:BLOCK")
    return Site(model, block, revision)


@contextmanager
def _of(ref: str) -> Iterator[None]:
    """Refusals that name the dictionary they are about."""
    try:
        yield
    except Refusal as refusal:
        name = public_address(ref)
        if name in refusal.what:
            raise
        raise Refusal(f"{shown(name, 300)}: {refusal.what}", refusal.why, refusal.instead) from refusal


def explain_each(
    asked: Sequence[Named], common: Common, out: Path, talk: Talk
) -> Generator[tuple[Named, Run | Refusal], None, None]:
    """Explain every dictionary into a run of its own, ``out/NAME``; the same call goes on where it stopped.

    Each is given once it is whole, or with why it is not; then the next one is begun.

    Raises:
        Refusal: as the module says.
        Interrupted: on Ctrl-C; what was finished is on disk.
    """
    common.check()
    target = check_each(asked, common, out)
    common.texts.tell(talk)
    for one in asked:
        tell_labels(one.dictionary, talk)
    dictionaries = [one.dictionary for one in asked]
    about = {"width": max(one.d_model for one in dictionaries), "d_sae": max(one.d_sae for one in dictionaries)}
    about["features"] = max(_count(one) for one in asked)
    farthest = max((one.site for one in dictionaries), key=lambda site: site.block)
    sites = [*(one.site for one in dictionaries), target]
    where = {"dtype": common.how["dtype"], "device": common.how["device"]}
    # Beside workers nothing stays: one of them has the device that models are read on.
    stay = common.on is None and readers_stay(
        (common.by, common.fed), common.native, farthest, target, common.options, **about, **where
    )
    with common.cluster(talk) as pool:
        held = Held(sites) if stay else None
        yield from _in_order(asked, replace(common.opened(farthest, target, talk, pool, **about), held=held), out, talk)


def _in_order(
    asked: Sequence[Named], common: Common, out: Path, talk: Talk
) -> Generator[tuple[Named, Run | Refusal], None, None]:
    """One after the other, with the verbalizers open."""
    now = [
        SetEntry(name=one.name, dictionary=identity(one.dictionary.ref), source=f"{one.dictionary.site}")
        for one in asked
    ]
    done, new = 0, not out.exists()
    try:
        with locked(_made(out)):
            runset = entries_in_order(out, now)
            runset.write(out)
            for number, one in enumerate(asked, 1):
                talk.say(f"dictionary {number} of {len(asked)}: {one.name}, at {one.dictionary.site}")
                try:
                    with _of(one.dictionary.ref):
                        run, runset = _explained(one, common, out, runset, talk)
                except Refusal as refusal:
                    # Made anew: the one that was raised holds on to all that was open where it was raised.
                    ended = Refusal(refusal.what, refusal.why, refusal.instead)
                    talk.say(f"{one.name} ends here, which is told again when all are done: {ended}")
                else:
                    done, ended = done + 1, run
                yield one, ended
        if new and not _begun(out, now):
            shutil.rmtree(out)
    except Interrupted as stop:
        raise Interrupted(f"{stop} ({done} of {len(asked)} dictionaries are done.)") from stop
    except KeyboardInterrupt as stop:
        kept = f"{done} of {len(asked)} dictionaries are done in {out}"
        raise Interrupted(f"interrupted: {kept}; run the same command again to go on.") from stop
    except Refusal:
        if new and not _begun(out, now):
            shutil.rmtree(out)  # it was made here
        raise
    finally:
        if common.held is not None:
            common.held.close(common.how["device"])


def _begun(out: Path, entries: Sequence[SetEntry]) -> bool:
    return any((out / one.name).exists() for one in entries)


def check_each(asked: Sequence[Named], common: Common, out: Path) -> Site:
    """Refuse early what any of them would be refused for, on whatever machine; where the verbalizer reads."""
    what = f"{len(asked)} dictionaries"
    if common.fitted is not None:
        raise Refusal(f"{what} through {common.fitted.name}", "a crossing is of one", "leave --through out")
    if common.confidence is not None and is_calibration(read_json(Path(common.confidence))):
        raise Refusal(f"{what} by {common.confidence}", "a calibration is of one", "explain it alone, or leave it out")
    check_set(check_folder(out))
    for one in asked:
        with _of(one.dictionary.ref):
            common.refuse_absent(one.dictionary.site, one.dictionary.d_model)
    target, options = common.target, common.options
    native = None if common.native is None else _site_of(common.native, common.how["engine"])
    for one in asked:
        dictionary, words = one.dictionary, one.features
        with _of(dictionary.ref):
            later = words if isinstance(words, Asked) and words.needs_firings else None
            if native is not None:
                refuse_other_site("the verbalizer named by --native", native, dictionary.site)
            common.refuse_early(dictionary, None, later, target, out / one.name)
            check_run(out / one.name)
            if (words is None and not dictionary.indices) or (isinstance(words, Asked) and words.every):
                continue  # of a whole dictionary the rows are read when its turn comes
            if later is None:
                chosen_of(replace(dictionary), words, options, None)
            else:
                later.ids_and_count(dictionary.d_sae, dictionary.name, dictionary.weights.names)
    return target


def _site_of(verbalizer: AnyVerbalizer | str, engine: str) -> Site:
    return site_of_verbalizer(verbalizer, engine=engine) if isinstance(verbalizer, str) else verbalizer.site


def _explained(one: Named, common: Common, out: Path, runset: RunSet, talk: Talk) -> tuple[Run, RunSet]:
    """One run, and the index in which it is done; as it is where it was finished before."""
    folder, dictionary = out / one.name, replace(one.dictionary)  # what is read of it goes when its run is done
    wanted = _digest(one, common, talk)
    entry = next(each for each in runset.runs if each.name == one.name)
    if entry.done == wanted and RunFolder.written(folder):
        found = RunFolder.open(folder)
        if len(found.rows()) == found.manifest.get("rows"):
            talk.say(f"{one.name} was finished before")
            return Run(found), runset
    with logged(talk) as own:
        chosen, later = chosen_of(dictionary, one.features, common.options, None)
        if not isinstance(one.features, Asked):
            chosen = replace(chosen, by_id=frozenset())  # a graph names them, no person
        if later is None:
            chosen = left_of(folder, chosen)
        run = common.explained(chosen, later, folder, own)
    runs = tuple(e.model_copy(update={"done": wanted}) if e.name == one.name else e for e in runset.runs)
    runset = runset.model_copy(update={"runs": runs})
    runset.write(out)
    return run, runset


def _digest(one: Named, common: Common, talk: Talk) -> str:
    """Of everything that decides a run."""
    native, confidence = common.open_native, common.confidence
    identities = [common.open_by.identity, None if native is None else native.identity]
    told = [one.words, common.options.settings, identities, common.settings]
    judged = "" if confidence is None else digest(Path(confidence))
    readings = common.readings(one.dictionary.site, talk)
    return readings.key("explained", common.texts.own or (), one.dictionary.fingerprint(), stable_json(told), judged)


def _count(one: Named) -> int:
    """How many features are asked for, at most."""
    asked, dictionary = one.features, one.dictionary
    if isinstance(asked, Asked):
        return asked.ids_and_count(dictionary.d_sae, dictionary.name, dictionary.weights.names)[1]
    return dictionary.d_sae if asked is None else len(asked)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def of_graph(asked: Sequence[Named], layers: Mapping[int, Sequence[str]], talk: Talk) -> list[Named]:
    """Each dictionary with the graph's features of its block; those of other blocks are told of and left out.

    Args:
        asked: the dictionaries.
        layers: by block, the features that the graph's nodes are of.
        talk: where it is told.

    Raises:
        Refusal: two dictionaries of one block, or none of the graph's blocks.
    """
    by_block: dict[int, Named] = {}
    for one in asked:
        block = one.dictionary.site.block
        if block in by_block:
            what = f"{by_block[block].name} and {one.name} beside a graph"
            raise Refusal(what, f"both are of block {block}, and a node is of one of them", "name one")
        by_block[block] = one
    if without := [block for block in by_block if block not in layers]:
        talk.say(f"no node of the graph is of {_blocks(without)}: left out")
    if lost := [layer for layer in layers if layer not in by_block]:
        nodes = sum(len(layers[layer]) for layer in lost)
        of = f"{nodes} feature{' of the graph is' if nodes == 1 else 's of the graph are'} of {_blocks(lost)}"
        talk.say(f"{of}, of which no dictionary is named")
    found = [replace(one, features=list(layers[block])) for block, one in by_block.items() if block in layers]
    if not found:
        have = ", ".join(map(str, sorted(layers))) or "none"
        why = f"no node is a feature of their blocks (it has features of layers {have})"
        raise Refusal("the graph", why, "name the dictionaries of these, or another graph")
    return found


def _blocks(blocks: Sequence[int]) -> str:
    return f"block{'' if len(blocks) == 1 else 's'} {', '.join(map(str, sorted(blocks)))}"


def together(found: Sequence[Forecast]) -> Forecast:
    """What all of them take: sums of what adds up, the most of memory, which is free again after each."""
    sites = [Site.parse(one.source) for one in found]
    models, again = dict[tuple[str, tuple[str, ...]], ModelForecast](), 0
    for one in found:
        for each in one.models:
            before = models.get(key := (each.model, each.roles))
            again += 0 if before is None else each.fetched_bytes or 0
            size = None if each.bytes is None else max(each.bytes, before.bytes or 0 if before else 0)
            models[key] = each.model_copy(update={"bytes": size})
    most = max(found, key=lambda one: one.host_bytes or 0)
    fetched, seconds = [one.fetched_bytes for one in found], [one.seconds for one in found]
    worst = ("the most", "measured mean if all fire", "measured mean, firing as in other texts", "measured mean")
    return most.model_copy(
        update={
            "source": f"{sites[0].model}:{','.join(str(site.block) for site in sites)}",
            "features": sum(one.features for one in found),
            "conditions": _summed([one.conditions for one in found]),
            "models": tuple(models.values()),
            "read_tokens": _summed([one.read_tokens for one in found]),
            "decoded_tokens": sum(one.decoded_tokens for one in found),
            "decoded_by": min((one.decoded_by for one in found), key=worst.index),
            "fetched_bytes": None if None in fetched else sum(one or 0 for one in fetched) - again,
            "written_bytes": sum(one.written_bytes for one in found),
            "host_bytes": None if any(one.host_bytes is None for one in found) else most.host_bytes,
            "gpu_bytes": max((one.gpu_bytes for one in found if one.gpu_bytes is not None), default=None),
            "order": max((one.order for one in found), key=("at once", "one at a time").index),
            "seconds": None if None in seconds else sum(one or 0 for one in seconds),
            "unknown": tuple(dict.fromkeys([_STAY, *(sentence for one in found for sentence in one.unknown)])),
        }
    )


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for one in counts for name in one)
    return {name: sum(one.get(name, 0) for one in counts) for name in names}
