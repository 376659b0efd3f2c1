"""Questions to the hub: which commit a revision is, which files a folder holds; and one table of its ways of saying no.

In: a repository of models or of data, a revision, a folder in it; or an error of the hub's own library. Out: a commit's
sha, file names and sizes, a `Refusal`. Answers are bounded in time, pages and bytes, and names that lead out of their
folder are refused. Loads the hub's library with the first question.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlsplit

from dragoman.core import Refusal
from dragoman.store.http import Answer, Http, NoAnswer
from dragoman.store.spans import shown

No = Literal["repository", "gated", "revision", "entry", "name", "away", "odd"]
Kind = Literal["models", "datasets"]  # of repositories, as the hub's addresses have them
# Shared by every reader of references. Only the hub's own kinds of reference have slashes in a revision.
PART = r"[\w.-]+"
REPOSITORY = rf"{PART}/{PART}"
REVISION = rf"refs/(?:pr|convert|heads|tags)/{PART}|{PART}"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST = 201  # characters of a repository's name
_SETTINGS = 4 << 20  # bytes of a file of settings
_ANSWER = 16 << 20  # bytes of one answer: a thousand files a page take less than one
_LISTING = 64 << 20  # bytes of all pages
_PAGES = 100
_SECONDS = 300.0  # for all pages
# (hub, kind, repository, revision) -> sha, as first answered
_COMMITS: dict[tuple[str, Kind, str, str], str] = {}
# address -> what the file of settings says, as first answered
_READ: dict[str, dict[str, Any]] = {}
# By what the hub writes in its header x-error-code, and by what its library and the HTTP libraries below that raise, of
# which the first of an error's classes counts.
_WAYS: dict[str, No] = {
    "RepoNotFound": "repository",
    "GatedRepo": "gated",
    "RevisionNotFound": "revision",
    "EntryNotFound": "entry",
    "LocalEntryNotFoundError": "away",
    "HFValidationError": "name",
    "GatedRepoError": "gated",
    "RepositoryNotFoundError": "repository",
    "RevisionNotFoundError": "revision",
    "RemoteEntryNotFoundError": "entry",
    "EntryNotFoundError": "entry",
    "OSError": "away",
    "TooManyRedirects": "odd",
    "TransportError": "away",
    "RequestError": "away",
}


class Withheld(Refusal):
    """The hub has the repository, and does not give what was asked of it."""


class NoRevision(Withheld):
    """The hub has the repository, and not the revision."""


def is_repository(name: str) -> bool:
    """Whether a name has the form of a repository's."""
    return len(name) <= _LONGEST and re.fullmatch(REPOSITORY, name) is not None


def refusal(what: str, no: No, *, revision: str | None = None, fetch: str, said: str = "", here: str = "") -> Refusal:
    """What is said of a thing that the hub does not give.

    ``what``: the reference, as it was written. ``revision``: that was asked for. ``fetch``: what to do on a machine
    that reaches the hub. ``said``: more about it, for a bracket. ``here``: what was looked for on this machine before.
    """
    more = f" ({said})" if said else ""
    why, instead = {
        "repository": ("the hub has no such repository, or it is gated", "check the id, and run: hf auth login"),
        "gated": (
            "the hub gives it only to those whom its owners let in (it is gated)",
            "ask for access on its page at the hub, and run: hf auth login",
        ),
        "revision": (
            f"the hub has the repository, but not the revision '{revision}'",
            "name a branch, tag or commit that it has",
        ),
        "entry": ("the repository has no such folder", "check the path in the repository"),
        "name": (f"the hub allows no such name{more}", "give a path or org/name"),
        "away": (f"the hub cannot be reached and nothing of it is cached{more}", fetch),
        "odd": (f"the hub's answer cannot be used{more}", f"try again later, or {fetch}"),
    }[no]
    made: dict[No, type[Refusal]] = {"gated": Withheld, "revision": NoRevision, "entry": Withheld}
    return made.get(no, Refusal)(what, here + why, instead)


def way_of(error: Exception) -> tuple[No, str]:
    """Which way of saying no an error of the hub's library is, and what it said."""
    ways: list[No] = [_WAYS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _WAYS]
    no: No = ways[0] if ways else "odd"
    said = " ".join(str(error).split())[:120]
    return no, said if no == "name" or isinstance(error, OSError) else f"{type(error).__name__}: {said}"


def endpoint() -> str:
    """Where the hub is."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def commit_at(path: Path) -> str | None:
    """The commit of a folder or file in the hub's cache (``models--ORG--NAME/snapshots/COMMIT``); None elsewhere."""
    for place in (path, *path.parents):
        if place.parent.name == "snapshots" and place.parent.parent.name.startswith("models--"):
            return place.name if _COMMIT.fullmatch(place.name) else None
    return None


def commit(repo: str, revision: str | None, what: str, kind: Kind = "models") -> str:
    """The sha of the commit that a branch or tag is, asked once a process: all reads are of one commit.

    ``revision``: a branch, tag, or commit (which is itself); None for the main branch. ``what``: see `refusal`.

    Raises:
        NoRevision: the hub has the repository, and not the revision.
        Refusal: the hub has no such repository, cannot be reached, or does not say it.
    """
    if revision is not None and is_commit(revision):
        return revision
    key = (endpoint(), kind, repo, revision or "main")
    if key not in _COMMITS:
        _COMMITS[key] = _commit(key[0], _Asked(kind, repo, key[3], what))
    return _COMMITS[key]


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit's sha, which nothing can move."""
    return _COMMIT.fullmatch(revision) is not None


def listing(repo: str, sha: str, folder: str, what: str) -> dict[str, bool]:
    """What lies in a folder of a repository: its name there, and whether it is a file.

    Raises:
        Refusal: there is no such folder; the hub cannot be reached; the listing has no end, or names what is not in
            the folder.
    """
    entries = _entries(_Asked("models", repo, sha, what), f"/{quote(folder)}" if folder else "", folder)
    return {one.name: one.is_file for one in entries}


def sizes(repo: str, sha: str, what: str, kind: Kind = "models") -> dict[str, int]:
    """Every file of a repository, however deep: its path and how many bytes it has.

    Raises:
        Refusal: as `listing`.
    """
    entries = _entries(_Asked(kind, repo, sha, what), "?recursive=true", "")
    return {one.name: one.size for one in entries if one.is_file}


def settings(repo: str, revision: str | None, path: str, what: str) -> dict[str, Any]:
    """A JSON file of a repository of models, asked for once a process, and not kept on the disk.

    Raises:
        Refusal: as `commit`; the repository is gated, or the file is not there, or no object.
    """
    asked = _Asked("models", repo, revision or "main", what, file=path)
    url = f"{endpoint()}/{quote(repo)}/resolve/{quote(asked.revision, safe='')}/{quote(path)}"
    if url not in _READ:
        http = Http()
        try:
            found, _, _ = _answered(http, url, _SETTINGS, asked)
        finally:
            http.close()
        if not isinstance(found, dict):
            raise asked.no("odd", f"{path} is no object")
        _READ[url] = found
    return _READ[url]


class _Entry(NamedTuple):
    """What lies in a folder: its name there; 0 bytes where the hub tells none."""

    name: str
    is_file: bool
    size: int


class _Asked(NamedTuple):
    """What is asked about: a repository of a kind at a revision; ``what``: see `refusal`; ``file``: one there."""

    kind: Kind
    repo: str
    revision: str
    what: str
    file: str = ""

    @property
    def url(self) -> str:
        return f"{endpoint()}/api/{self.kind}/{quote(self.repo)}"

    @property
    def fetch(self) -> str:
        """What to do on a machine that reaches the hub."""
        of_kind = " --repo-type dataset" if self.kind == "datasets" else ""
        revision = "" if self.revision == "main" else f" --revision {self.revision}"
        take = "FOLDER" if self.file or self.kind == "datasets" else "the folder in it"
        inside = f"/{above}" if (above := self.file.rpartition("/")[0]) else ""
        return (
            f"on a machine with access run: hf download {self.repo}{of_kind}{revision} --local-dir FOLDER, and name "
            f"{take}{inside}"
        )

    def no(self, no: No, said: str = "") -> Refusal:
        if no == "entry" and self.file:
            return Withheld(self.what, f"the repository holds no {self.file}", "name the repository of a whole model")
        return refusal(self.what, no, revision=self.revision, fetch=self.fetch, said=said)


def _commit(at: str, asked: _Asked) -> str:
    http = Http()
    try:
        url = f"{at}/api/{asked.kind}/{quote(asked.repo)}/revision/{quote(asked.revision, safe='')}?expand=sha"
        answer, _, _ = _answered(http, url, _ANSWER, asked)
    finally:
        http.close()
    sha = answer.get("sha") if isinstance(answer, dict) else None
    if not isinstance(sha, str) or not is_commit(sha):
        raise asked.no("odd", f"it does not say which commit '{asked.revision}' is")
    return sha


def _entries(asked: _Asked, where: str, folder: str) -> Iterator[_Entry]:
    """What lies in a folder."""
    http, left, begun = Http(), _LISTING, time.monotonic()
    url: str | None = f"{asked.url}/tree/{asked.revision}{where}"
    try:
        for _ in range(_PAGES):
            answer, url, size = _answered(http, url, min(left, _ANSWER), asked)
            left -= size
            for entry in answer if isinstance(answer, list) else [None]:
                yield _entry(entry, folder, asked)
            if url is None:
                return
            if time.monotonic() - begun > _SECONDS:
                break
    finally:
        http.close()
    raise asked.no("odd", "its list of files has no end")


def _entry(entry: Any, folder: str, asked: _Asked) -> _Entry:
    """What an answer's entry says."""
    path = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(path, str):
        raise asked.no("odd", "it is no list of files")
    pure, above = PurePosixPath(path), PurePosixPath(folder)
    stray = pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path or not pure.is_relative_to(above)
    if stray or pure == above:
        raise asked.no("odd", f"it lists '{shown(path)}', which is not in the folder")
    size = entry.get("size")
    size = size if isinstance(size, int) and size > 0 else 0
    return _Entry(str(pure.relative_to(above)), entry.get("type") == "file", size)


def _answered(http: Http, url: str | None, most: int, asked: _Asked) -> tuple[Any, str | None, int]:
    """JSON of an answer, the next page's address if there is one, and the answer's bytes."""
    from huggingface_hub import is_offline_mode
    from huggingface_hub.utils import build_hf_headers

    if is_offline_mode() or url is None:
        raise asked.no("away", "HF_HUB_OFFLINE is set")
    # A next page on another server gets no token.
    ours = urlsplit(url)[:2] == urlsplit(endpoint())[:2]
    try:
        with http.get(url, build_hf_headers() if ours else None) as answer:
            no = _no(answer)
            if no is not None:
                raise asked.no(no, f"it answers {answer.status}")
            body = answer.body(most)
            return json.loads(body), answer.next_page, len(body)
    except NoAnswer as error:
        raise asked.no("away" if error.again else "odd", error.why) from error
    except (ValueError, RecursionError) as error:
        raise asked.no("odd", "it is not JSON") from error


def _no(answer: Answer) -> No | None:
    """Which way of saying no an answer is; None for a yes."""
    if answer.status == 200:
        return None
    code = _WAYS.get(answer.headers.get("x-error-code", ""))
    if code is not None:
        return code
    if answer.status in (401, 403, 404):  # the hub says 401 of a repository that is not there to who is not logged in
        return "repository"
    return "away" if answer.status in (408, 429) or answer.status >= 500 else "odd"
