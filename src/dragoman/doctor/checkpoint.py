"""Do the files belong together: role, base model, adapter.

In: the folders of a verbalizer and of a reconstructor that are on this machine. Out: findings ``role``, ``base``,
``width``, ``adapter-fits``, ``adapter-trained``, ``adapter-applied``, ``adapter-merged``, ``stale-adapter``, and
``tokenizer`` and ``template`` of a checkpoint that does not open: it can say why. Downloads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dragoman.core import Refusal
from dragoman.doctor.finding import BESIDE, Check, Finding
from dragoman.doctor.prompt import TWO_TURNS, bos, rendered, template, tokenizer_whole
from dragoman.doctor.subject import Subject, folder_at_hand
from dragoman.models.adapters import scale_of
from dragoman.models.decode import Verbalizer
from dragoman.models.folder import ADAPTER, ADAPTER_WEIGHTS, TEMPLATE, read_template
from dragoman.models.load import load_tokenizer, with_template
from dragoman.models.merge import Agreement
from dragoman.models.reconstruct.contract import EASY_META, EASY_WEIGHTS, HEAD, RECONSTRUCTOR_ROLES
from dragoman.models.sizes import OF_VISION
from dragoman.models.watch import weight, weight_names
from dragoman.store import ArraysFile, file_sha256, read_json
from dragoman.store.plainyaml import read_yaml
from dragoman.store.spans import shown
from dragoman.verbalizers import registry
from dragoman.verbalizers.prompt import encoded
from dragoman.verbalizers.sidecar import VERBALIZER_ROLES, sidecar_file

ROLES = {"verbalizer": VERBALIZER_ROLES, "reconstructor": RECONSTRUCTOR_ROLES}
HEADS = (HEAD, EASY_WEIGHTS, EASY_META, "value_head.pt")
# Share of the adapter's own update found in the weights. 1 when merged once, 0 when it was left out, 2 when merged
# twice; rounding the sum to bfloat16 leaves it within a few thousandths over a whole matrix.
APPLIED = 0.1

ROLE = Check("role", "what its files say it is")
WIDTH = Check("width", "width of its vectors", "width of the verbalizer's vectors")
BASE = Check("base", "base models that are named", relation="the same model as")
FITS = Check("adapter-fits", "matrices of its base that its updates do not fit")
MERGED = Check("adapter-merged", "largest relative error of its merged layers on a few tokens", relation="at most")
TRAINED = Check("adapter-trained", "its B matrices", "what B is before the first training step", "above")
UNCHANGED = Check("stale-adapter", "sha256 of its base's weights", "base_weights of its sidecar")
APPLIED_ONCE = Check(
    "adapter-applied",
    "share of its own update found in the model's weights",
    "adapter's B times A, scaled, over the base's matrix",
    f"within {APPLIED:g} of",
)


def check_checkpoint(subject: Subject) -> list[Finding]:
    """All checks of the files of verbalizer and reconstructor."""
    found: list[Finding] = []
    for ref, kind in ((subject.by, "verbalizer"), (subject.ar, "reconstructor")):
        if ref is None:
            continue
        folder = folder_at_hand(ref)
        if folder is None:
            found.append(ROLE.skipped(ref, "its folder is not on this machine"))
            continue
        found.append(role(ref, folder, kind))
        if kind == "reconstructor":
            found.append(reconstructor_width(ref, folder, subject.width))
            continue
        found += adapter(subject, folder)
        found += unopened(subject, folder) if subject.verbalizer is None else []
    return found


def unopened(subject: Subject, folder: Path) -> list[Finding]:
    """The tokenizer of a verbalizer that did not open: it is often the reason."""
    own = folder if (folder / "tokenizer.json").is_file() else folder_at_hand(subject.base or _base(folder))
    if own is None:
        return []
    try:
        tokenizer: Any = load_tokenizer(own)
        if (folder / TEMPLATE).is_file():
            tokenizer = with_template(tokenizer, read_template(folder / TEMPLATE))
        ids = encoded(rendered(tokenizer, TWO_TURNS), tokenizer)
    except Refusal:
        return []  # opening has said so
    return [
        tokenizer_whole(subject.verbalizer_name, tokenizer),
        bos(subject.verbalizer_name, "beginning-of-text tokens of a chat it renders", tokenizer, ids),
        template(subject.verbalizer_name, tokenizer),
    ]


def _base(folder: Path) -> str | None:
    named = meta(folder).get("base_checkpoint") or config(folder, ADAPTER).get("base_model_name_or_path")
    return str(named) if named else None


def meta(folder: Path) -> dict[str, object]:
    """The sidecar as it is written; empty where there is none or it is no plain YAML, which ``role`` says."""
    try:
        read = sidecar_of(folder)
    except Refusal:
        return {}
    return read if isinstance(read, dict) else {}


def sidecar_of(folder: Path) -> Any:
    """What the sidecar holds, None where there is none; refuse one that is no plain YAML."""
    path = sidecar_file(folder)
    return read_yaml(path, f"sidecar {path}") if path.is_file() else None


def config(folder: Path, name: str) -> dict[str, object]:
    """A JSON file of the folder; empty where there is none or it is damaged (see ``damaged``)."""
    try:
        read = read_json(folder / name)
    except Refusal:
        return {}
    return read if isinstance(read, dict) else {}


def role(ref: str, folder: Path, wanted: str) -> Finding:
    """A verbalizer speaks, a reconstructor has a value head and no injection scale: they must not be swapped."""
    try:
        sidecar_of(folder)
    except Refusal as refusal:
        return ROLE.refused(ref, refusal)
    sidecar = meta(folder)
    stated, extraction = sidecar.get("role"), sidecar.get("extraction")
    norm = extraction.get("injection_scale") if isinstance(extraction, dict) else None
    heads = [name for name in HEADS if (folder / name).is_file()]
    other = "reconstructor" if wanted == "verbalizer" else "verbalizer"
    swapped = stated in ROLES[other]
    evidence = f"role {shown(stated)}" if stated else "no role"
    if wanted == "verbalizer" and heads and stated not in ROLES[wanted]:
        swapped, evidence = True, f"{evidence}, {heads[0]}"
    if wanted == "reconstructor" and not stated and not heads and norm is not None:
        swapped, evidence = True, f"{evidence}, injection_scale {shown(norm)}, no value head"
    fault = ""
    if swapped:
        article = "ar" if wanted == "reconstructor" else "av"
        fault = f"it is a {other}: pass the folder of the {wanted} ({article}); the two are easily swapped"
    relation = "one of" if swapped or stated in ROLES[wanted] else "instead of"
    return ROLE.of(ref, evidence, " or ".join(ROLES[wanted]), fault, origin=f"roles of a {wanted}", relation=relation)


def reconstructor_width(ref: str, folder: Path, width: int) -> Finding:
    """Verbalizer and reconstructor of one site have one width."""
    wide = meta(folder).get("d_model")
    if not isinstance(wide, int) or not width:
        return WIDTH.skipped(ref, "one of the two sidecars states no d_model")
    fault = "" if wide == width else "use the reconstructor of the verbalizer's model"
    return WIDTH.of(ref, float(wide), float(width), fault)


def adapter(subject: Subject, folder: Path) -> list[Finding]:
    """Checks of a PEFT adapter against the base it is put on; a full checkpoint has only its base's name to compare."""
    ref = subject.verbalizer_name
    local = subject.local
    folder = local.contract.weights if local is not None else folder  # bundles keep it further down
    settings = config(folder, ADAPTER)
    names = {
        "its sidecar's base_checkpoint": meta(folder).get("base_checkpoint"),
        "its adapter_config.json": settings.get("base_model_name_or_path"),
    }
    known, bases = registry.find(ref), (subject.base, local.base if local is not None else None)
    vouched = known is not None and known.switches.stacked_on is not None and known.switches.stacked_on in bases
    found = [base_names(ref, {k: str(v) for k, v in names.items() if v}, subject.base, vouched=vouched)]
    found += merged(ref, local.merged if local is not None else ())
    if not settings:
        return [*found, *damaged(ref, folder)]
    # An adapter may sit on an adapter: what it is put on in the end is what the verbalizer opened.
    whole = local.whole if local is not None and local.adapters else None
    named = [str(v) for v in (whole, *bases, *names.values()) if v]
    base = next((f for f in map(folder_at_hand, named) if f is not None), None)
    try:
        own = ArraysFile(folder / ADAPTER_WEIGHTS)
        found.append(trained(ref, own))
        if base is None:
            return [*found, FITS.skipped(ref, "its base model is not on this machine")]
        shapes, files = tensors_of(base)
        found += [fits(ref, own, shapes), unchanged(ref, folder, base)]
        if found[-2].status == "ok":
            found.append(applied(ref, local, own, settings, files))
    except Refusal as refusal:
        found.append(FITS.refused(ref, refusal))
    return found


def merged(ref: str, agreements: Iterable[Agreement]) -> list[Finding]:
    """How each adapter that was merged agrees with PEFT, the adapter carried along."""
    return [
        MERGED.of(
            ref,
            one.error,
            one.limit,
            "" if one.holds else "use its authors' merged model",
            what=f"{MERGED.what} ({one.layer})",
            origin=f"what rounding explains, against PEFT unmerged; of the model's output {one.whole:.2g}",
        )
        for one in agreements
    ]


def damaged(ref: str, folder: Path) -> list[Finding]:
    """A fault where there are settings of an adapter, and they cannot be read."""
    try:
        if (folder / ADAPTER).is_file():
            read_json(folder / ADAPTER)
    except Refusal as refusal:
        return [FITS.refused(ref, refusal)]
    return []


def base_names(ref: str, names: dict[str, str], given: str | None, *, vouched: bool = False) -> Finding:
    """Whoever names the base must name the same one; owners and folders before the last slash may differ.

    ``given`` by a person settles a disagreement, unless it is a name too and nobody else's; ``vouched`` for by the
    registry, it does: adapters name folders of the machine they were trained on.
    """
    by_hand = vouched or (given is not None and Path(given).expanduser().is_dir())
    compared = names if given is None or by_hand else {"given": given, **names}
    if len(compared) < 2:
        return BASE.skipped(ref, "only one place names the base, so there is nothing to compare")
    wanted = next(iter(compared))
    odd = [where for where, name in compared.items() if short(name) != short(compared[wanted])]
    settled = by_hand or (given is not None and len(odd) < len(compared) - 1)
    fault = "" if settled or not odd else "put it on the base it was trained on, or correct the name that is wrong"
    origin = wanted if not odd else f"{wanted}; {odd[0]} says otherwise" + (", one was given" if settled else "")
    relation = BESIDE if odd and settled else None
    measured = compared[odd[0]] if odd else compared[wanted]
    return BASE.of(ref, measured, compared[wanted], fault, origin=origin, relation=relation)


def short(name: str) -> str:
    """What a model is called, without owner, folder, revision and case."""
    return Path(name.rstrip("/").partition("@")[0]).name.lower()


def tensors_of(folder: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, ArraysFile]]:
    """Shape and file of every tensor of a model, by its name from ``layers.`` on."""
    shapes: dict[str, tuple[int, ...]] = {}
    files: dict[str, ArraysFile] = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = ArraysFile(path)
        for name in file.names:
            shapes[name], files[name] = file.shapes[name], file
    return shapes, files


def stems(own: ArraysFile) -> list[str]:
    """What the names of each update's two matrices begin with; a vision tower, which no text passes, may be absent."""
    end = ".lora_A.weight"
    return [name.removesuffix(end) for name in own.names if name.endswith(end) and not OF_VISION.search(name)]


def module_of(stem: str) -> str:
    """The module an update is for, from ``layers.`` on: wrappers before it differ between files and versions."""
    return stem[stem.find("layers.") :] if "layers." in stem else stem.rpartition(".")[2]


def place_of(stem: str, names: Collection[str]) -> str | None:
    """The matrix an update is for, among a model's; a vision tower has layers of the same names."""
    module = module_of(stem)
    for wanted in (f"{module}.weight", *(("embed_tokens.weight",) if module == "lm_head" else ())):  # tied: stored once
        same = [n for n in names if n == wanted or n.endswith(f".{wanted}")]
        found = next((n for n in same if ("vision" in n) == ("vision" in stem)), None)
        if found is not None:
            return found
    return None


def trained(ref: str, own: ArraysFile) -> Finding:
    """LoRA starts with B = 0 (embeddings: A = 0): if all of it is zero, it was saved before its first step."""
    ups = [name for name in own.names if ".lora_B." in name or ".lora_embedding_A" in name]
    entries = (np.abs(own.whole(name).astype(np.float32)).max(initial=0.0) for name in ups[:64])
    largest = max(map(float, entries), default=0.0)
    fault = ""
    if not (math.isfinite(largest) and largest > 0):
        fault = "it was never trained, or saved before it was: download the trained adapter"
    return TRAINED.of(ref, largest, 0.0, fault, what=f"largest entry of its {len(ups)} B matrices")


def fits(ref: str, own: ArraysFile, shapes: dict[str, tuple[int, ...]]) -> Finding:
    """Each A must be as wide, each B as tall, as the base's matrix."""
    odd = []
    for stem in stems(own):
        place = place_of(stem, shapes)
        shape = (own.shapes[f"{stem}.lora_B.weight"][0], own.shapes[f"{stem}.lora_A.weight"][1])
        if place is None or shapes[place] != shape:
            odd.append(f"{module_of(stem)} {shape} on {shapes[place] if place else 'nothing'}")
    fault = "" if not odd else "it was trained on another base, or on another version of it: use that one"
    origin = f"shapes of the base's matrices, {len(stems(own))} updates"
    return FITS.of(ref, f"{len(odd)}: {odd[0]}" if odd else 0.0, 0.0, fault, origin=origin)


def unchanged(ref: str, folder: Path, base: Path) -> Finding:
    """Where the checkpoint records the digests of the base it was trained on, they must be those of the base here."""
    recorded = meta(folder).get("base_weights")
    if not isinstance(recorded, dict) or not recorded:
        return UNCHANGED.skipped(ref, "its sidecar records no base_weights, as published ones do not")
    here = {name: file_sha256(base / name) if (base / name).is_file() else "absent" for name in recorded}
    odd = [name for name in recorded if str(recorded[name]) != here[name]]
    if not odd:
        return UNCHANGED.of(ref, "all as recorded", f"{len(recorded)} files", relation="in")
    measured, against = (f"{odd[0]} {str(sums[odd[0]])[:12]}" for sums in (here, recorded))
    fault = "its base has changed since it was trained: use the base it was trained on"
    return UNCHANGED.of(ref, measured, against, fault)


def applied(
    ref: str, local: Verbalizer | None, own: ArraysFile, settings: dict[str, object], files: dict[str, ArraysFile]
) -> Finding:
    """The model must differ from its base by the adapter's update, once."""
    if local is None:
        return APPLIED_ONCE.skipped(ref, "the model is not open")
    if len(local.adapters) != 1:
        return APPLIED_ONCE.skipped(ref, "it sits on another adapter")
    if settings.get("use_dora"):
        return APPLIED_ONCE.skipped(ref, "it also scales the sum (DoRA); adapter-merged compares answers")
    here = weight_names(local)
    for stem in stems(own):
        module, place, name = module_of(stem), place_of(stem, files), place_of(stem, here)
        if place is None or name is None:
            continue
        update = scale_of(settings, stem.removeprefix("base_model.model.")) * (
            own.whole(f"{stem}.lora_B.weight").astype(np.float64)
            @ own.whole(f"{stem}.lora_A.weight").astype(np.float64)
        )
        size = float(np.sum(update**2))
        if size == 0:
            continue
        base: NDArray[Any] = files[place].whole(place)
        moved = weight(local, name).astype(np.float64) - base
        share = float(np.sum(moved * update)) / size
        fault = ""
        if abs(share - 1) > APPLIED:
            fault = "the model runs on other weights: load the base named by the adapter and merge the adapter once"
        return APPLIED_ONCE.of(ref, share, 1.0, fault, what=f"{APPLIED_ONCE.what} ({module})")
    return APPLIED_ONCE.skipped(ref, "it is carried along by the model rather than merged into it")
