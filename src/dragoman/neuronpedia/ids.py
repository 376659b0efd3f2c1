"""Neuronpedia's names for a feature: ids, ``np:`` references and addresses of its site, as one value.

In: ``gemma-2-2b/20-gemmascope-res-16k/123``, ``np:...``, a URL of a feature or source (page, embed or API), or the way
the site prints a feature (``GEMMA-2-2B@20-GEMMASCOPE-RES-16K:123``). Out: a `NeuronpediaRef`. Refuses its other pages,
other sites, and names that are not of its form. Reads nothing from the network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from dragoman.core import Refusal, Site, public_address
from dragoman.store.spans import shown

HOST = "neuronpedia.org"
FORMS = "MODEL/SOURCE/INDEX, for example gemma-2-2b/20-gemmascope-res-16k/123, np:MODEL/SOURCE/INDEX or its URL"

# Their model ids are not hub ids. From their own table (np_model_to_hf.json) and SAELens' links.
HUB_MODELS = {
    "deepseek-r1-distill-llama-8b": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    "gemma-2-27b": "google/gemma-2-27b",
    "gemma-2-2b": "google/gemma-2-2b",
    "gemma-2-2b-it": "google/gemma-2-2b-it",
    "gemma-2-9b": "google/gemma-2-9b",
    "gemma-2-9b-it": "google/gemma-2-9b-it",
    "gemma-3-12b": "google/gemma-3-12b-pt",
    "gemma-3-12b-it": "google/gemma-3-12b-it",
    "gemma-3-1b": "google/gemma-3-1b-pt",
    "gemma-3-1b-it": "google/gemma-3-1b-it",
    "gemma-3-270m": "google/gemma-3-270m",
    "gemma-3-270m-it": "google/gemma-3-270m-it",
    "gemma-3-27b": "google/gemma-3-27b-pt",
    "gemma-3-27b-it": "google/gemma-3-27b-it",
    "gemma-3-4b": "google/gemma-3-4b-pt",
    "gemma-3-4b-it": "google/gemma-3-4b-it",
    "gemma-4-e2b": "google/gemma-4-E2B",
    "gemma-4-e4b": "google/gemma-4-E4B",
    "gpt-oss-20b": "openai/gpt-oss-20b",
    "gpt2-small": "openai-community/gpt2",
    "llama3.1-8b": "meta-llama/Llama-3.1-8B",
    "llama3.1-8b-it": "meta-llama/Llama-3.1-8B-Instruct",
    "llama3.3-70b-it": "meta-llama/Llama-3.3-70B-Instruct",
    "olmo-3-1025-7b": "allenai/Olmo-3-1025-7B",
    "olmo-3-1125-32b": "allenai/Olmo-3-1125-32B",
    "pythia-70m-deduped": "EleutherAI/pythia-70m-deduped",
    "qwen2.5-7b-it": "Qwen/Qwen2.5-7B-Instruct",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-14b": "Qwen/Qwen3-14B",
    "qwen3-32b": "Qwen/Qwen3-32B",
    "qwen3-4b": "Qwen/Qwen3-4B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3.5-0.8b": "Qwen/Qwen3.5-0.8B",
    "qwen3.5-27b": "Qwen/Qwen3.5-27B",
}

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SOURCE = re.compile(r"(?P<layer>\d{1,4})-(?:[A-Za-z0-9](?:[A-Za-z0-9.-]|_(?!_)){0,150})(?:__[A-Za-z0-9._-]{1,100})?")
_INDEX = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PRINTED = re.compile(r"(?P<model>[^@/:\s]+)@(?P<source>[^@/:\s]+):(?P<index>\d+)")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronpediaRef:
    """A feature (``index`` given) or a whole source: ``{layer}-{set}``, with an optional ``__suffix``.

    Prints as ``np:MODEL/SOURCE/INDEX``. ``index`` is a string, as theirs is.
    """

    model: str
    source: str
    index: str | None = None

    def __post_init__(self) -> None:
        """Refuse parts that are not of their form; everything later may rely on it (paths, URLs)."""
        whole = shown("/".join(p for p in (self.model, self.source, self.index) if p is not None), 120)
        if not _MODEL.fullmatch(self.model):
            why = f"'{shown(self.model)}' is no model id of theirs"
            raise Refusal(f"Neuronpedia id '{whole}'", why, f"write {FORMS}")
        if not _SOURCE.fullmatch(self.source):
            why = f"'{shown(self.source)}' is no source id, which begins with the layer (20-gemmascope-res-16k)"
            raise Refusal(f"Neuronpedia id '{whole}'", why, f"write {FORMS}")
        if self.index is not None and not _INDEX.fullmatch(self.index):
            raise Refusal(f"Neuronpedia id '{whole}'", f"'{shown(self.index)}' is no feature index", f"write {FORMS}")

    @property
    def layer(self) -> int:
        """The number the source id begins with: the block, for dictionaries of a block's output (see `site`)."""
        found = _SOURCE.fullmatch(self.source)
        return int(found["layer"]) if found else -1

    @property
    def site(self) -> Site:
        """The stream by the id alone: model by the table, block by the leading number.

        True of sources at ``hook_resid_post``. A source at ``hook_resid_pre`` (gpt2-small's ``res-jb``) is one block
        earlier, which only its record says: prefer `SourceRecord.site` where there is one.

        Raises:
            Refusal: the model is not in the table.
        """
        return Site(hub_model(self.model), self.layer)

    @property
    def path(self) -> str:
        """``MODEL/SOURCE`` or ``MODEL/SOURCE/INDEX``."""
        return "/".join(p for p in (self.model, self.source, self.index) if p is not None)

    def at(self, index: str | int | None) -> NeuronpediaRef:
        """Another feature of the same source, or the source itself."""
        return NeuronpediaRef(model=self.model, source=self.source, index=None if index is None else str(index))

    def __str__(self) -> str:
        """``np:MODEL/SOURCE/INDEX``."""
        return f"np:{self.path}"


def parse(text: str) -> NeuronpediaRef:
    """Read any form of a feature's or source's name.

    Raises:
        Refusal: another site, another page of theirs, or not of their form.
    """
    said = text.strip()
    if _SCHEME.match(said) or _on_site(said):
        return _from_url(said)
    said = said.removeprefix("np:")
    printed = _PRINTED.fullmatch(said)
    if printed:
        # The site prints these in capitals; its ids are lower case.
        return NeuronpediaRef(model=printed["model"].lower(), source=printed["source"].lower(), index=printed["index"])
    return _from_parts(said.split("/"), text)


def is_reference(text: str) -> bool:
    """Whether this is meant for Neuronpedia: ``np:``, its site, or three parts of which the second begins with a layer.

    Two parts are a hub id to everybody else, so a bare ``MODEL/SOURCE`` does not count; write ``np:MODEL/SOURCE``.
    """
    said = text.strip()
    if said.startswith("np:") or _on_site(said):
        return True
    parts = said.split("/")
    return len(parts) == 3 and all(
        form.fullmatch(part) for form, part in zip((_MODEL, _SOURCE, _INDEX), parts, strict=True)
    )


def hub_model(model: str) -> str:
    """Hub id of one of their models. Refused when the table does not know it."""
    found = HUB_MODELS.get(model.lower())
    if found is None:
        instead = "name the site yourself as MODEL:BLOCK, or pass the source's export, whose record may say it"
        raise Refusal(f"Neuronpedia model '{model}'", "which hub model that is, is not in dragoman's table", instead)
    return found


def _on_site(said: str) -> bool:
    """Their site, with or without ``https://`` and ``www.``."""
    return (_host(said) or "") in (HOST, f"www.{HOST}")


def _host(said: str) -> str | None:
    try:
        return urlsplit(said if _SCHEME.match(said) else f"https://{said}").hostname
    except ValueError:
        return None


def _from_url(said: str) -> NeuronpediaRef:
    """A page ``/MODEL/SOURCE[/INDEX]`` or ``/api/feature/MODEL/SOURCE/INDEX``; query and fragment do not count."""
    whole = said if _SCHEME.match(said) else f"https://{said}"
    if not _on_site(said) or urlsplit(whole).scheme.lower() not in ("http", "https"):
        raise Refusal(f"address '{public_address(said)}'", f"it is not on {HOST}", f"write {FORMS}")
    parts = [unquote(p) for p in urlsplit(whole).path.split("/") if p]
    if parts[:2] in (["api", "feature"], ["api", "source"]):
        parts = parts[2:]
    elif parts[:1] == ["api"]:
        why = "that part of their API names no feature"
        raise Refusal(f"address '{public_address(said)}'", why, f"use /api/feature/ addresses, or {FORMS}")
    return _from_parts(parts, said)


def _from_parts(parts: list[str], said: str) -> NeuronpediaRef:
    if len(parts) not in (2, 3):
        raise Refusal(f"Neuronpedia id '{said.strip()}'", "it names no feature and no source", f"write {FORMS}")
    return NeuronpediaRef(model=parts[0], source=parts[1], index=parts[2] if len(parts) == 3 else None)
