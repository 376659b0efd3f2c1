"""What a person writes for a dictionary, parsed and printed in one form, and where that is.

In: text such as ``sae:RELEASE/SAE_ID#INDEX``, ``hf:ORG/REPO@REV/PATH#INDEX``, ``ORG/REPO/PATH``,
``file:PATH#KEY[INDEX]``, a path or a packaged name. Out: a `DictionaryRef`, or a path here. Refuses text of none of
these forms. Looks at no network, and at the disk only to tell a path from a hub id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dragoman import tiny
from dragoman.addresses import public_address
from dragoman.core import Refusal
from dragoman.store.hub import REPOSITORY, REVISION

Kind = Literal["sae", "hf", "file"]
FORMS = "sae:RELEASE/SAE_ID, hf:ORG/REPO@REVISION/PATH, ORG/REPO/PATH, file:PATH#KEY[INDEX] or a path"
_INDICES = r"(?P<indices>\d{1,12}(?:,\d{1,12})*)"
_SAE = re.compile(rf"(?P<place>[^/#@\s]+)(?:@(?P<revision>{REVISION}))?/(?P<inside>[^#\s]+?)(?:#{_INDICES})?$")
_HUB = re.compile(
    rf"(?P<place>{REPOSITORY})(?:@(?P<revision>{REVISION}))?(?:/(?P<inside>[^#\s]*?))?/?(?:#{_INDICES})?$"
)
_FILE = re.compile(rf"(?P<place>[^#]+)(?:#(?P<key>[^\[\]#]+)?(?:\[{_INDICES}\])?)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryRef:
    """A dictionary, and perhaps features of it.

    ``place``: a SAELens release ("sae"), a hub repository ("hf") or a path ("file"). ``inside``: the SAE id, or the
    path in the repository. ``revision``: of the repository, which for "sae" is the one the release lies in. ``key``:
    which array of a file. ``indices``: which features.
    """

    kind: Kind
    place: str
    inside: str = ""
    revision: str | None = None
    key: str | None = None
    indices: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str | Path) -> DictionaryRef:
        """Read any of the forms; what is there as a path is that path. Refused when it is none of them."""
        if isinstance(text, Path):
            return cls(kind="file", place=str(text))
        scheme, colon, rest = text.strip().partition(":")
        patterns = {"sae": _SAE, "hf": _HUB, "file": _FILE}
        if colon and scheme in patterns:
            return cls._of(scheme, patterns[scheme].match(rest), text)
        if scheme in ("np", "http", "https"):
            why = "it is the address of a page, not of a dictionary's files"
            raise Refusal(f"dictionary '{public_address(text)}'", why, f"name it as {FORMS}")
        if not _looks_like_hub(text):
            return cls._of("file", _FILE.match(text.strip()), text)
        return cls._of("hf", _HUB.match(text.strip()), text)

    @classmethod
    def _of(cls, scheme: str, found: re.Match[str] | None, text: str) -> DictionaryRef:
        groups = found.groupdict() if found else {}
        inside = groups.get("inside") or ""
        dots = any(not part.strip(".") for part in groups.get("place", "").split("/")) and scheme == "hf"
        if not found or dots or any(part in ("..", ".", "") for part in inside.split("/") if inside):
            raise Refusal(f"dictionary '{public_address(text)}'", "it is of no known form", f"name it as {FORMS}")
        kinds: dict[str, Kind] = {"sae": "sae", "hf": "hf", "file": "file"}
        indices = groups.get("indices")
        return cls(
            kind=kinds[scheme],
            place=groups["place"],
            inside=inside,
            revision=groups.get("revision"),
            key=groups.get("key"),
            indices=tuple(int(i) for i in indices.split(",")) if indices else (),
        )

    def __str__(self) -> str:
        """The one form it is printed in."""
        indices = ",".join(map(str, self.indices))
        if self.kind == "file":
            where = f"[{indices}]" if indices else ""
            return f"file:{self.place}" + (f"#{self.key or ''}{where}" if self.key or where else "")
        revision = f"@{self.revision}" if self.revision else ""
        inside = f"/{self.inside}" if self.inside else ""
        return f"{self.kind}:{self.place}{revision}{inside}" + (f"#{indices}" if indices else "")


def _looks_like_hub(text: str) -> bool:
    """Whether text without a scheme is ORG/REPO and perhaps a path, and not a path here."""
    bare = text.strip()
    if bare.startswith((".", "/", "~")) or Path(bare.partition("#")[0]).exists():
        return False
    return bool(_HUB.match(bare))


def located(ref: str | Path | DictionaryRef) -> Path | DictionaryRef:
    """Where a dictionary's files are: a packaged folder or a path, or a reference that is read by ranges.

    Raises:
        Refusal: a bare name that is neither here nor packaged, or text of no known form.
    """
    if isinstance(ref, Path):
        return ref.expanduser()
    if isinstance(ref, DictionaryRef):
        return ref
    if ref in tiny.DATA:
        return tiny.data(ref)
    if not set(ref) & set("/:") and not Path(ref.partition("#")[0]).exists():
        names = ", ".join(name for name in tiny.DATA if name.endswith("-sae"))
        raise Refusal(
            f"'{public_address(ref)}'",
            "there is no such folder or file here, and it is no packaged dictionary",
            f"give a path, sae:RELEASE/SAE_ID, hf:ORG/REPO/PATH, or one of {names}",
        )
    return DictionaryRef.parse(ref)
