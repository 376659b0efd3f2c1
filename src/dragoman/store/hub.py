"""Questions to the hub: which commit a revision is, which files a folder holds; and one table of its ways of saying no.

In: a repository, a revision, a folder in it; or an error of the hub's own library. Out: a commit's sha, file names, a
`Refusal`. Answers are bounded in time, pages and bytes, and names that lead out of their folder are refused. Loads the
hub's library with the first question.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from dragoman.core import Refusal
from dragoman.store.http import Answer, Http, NoAnswer
from dragoman.store.spans import shown

No = Literal["repository", "revision", "entry", "name", "away", "odd"]
# Shared by every reader of references. Only the hub's own kinds of reference have slashes in a revision.
PART = r"[\w.-]+"
REPOSITORY = rf"{PART}/{PART}"
REVISION = rf"refs/(?:pr|convert|heads|tags)/{PART}|{PART}"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST = 201  # characters of a repository's name
_ANSWER = 16 << 20  # bytes of one answer: a thousand files a page take less than one
_LISTING = 64 << 20  # bytes of all pages
_PAGES = 100
_SECONDS = 300.0  # for all pages
_COMMITS: dict[tuple[str, str, str], str] = {}  # (hub, repository, revision) -> sha, as first answered
# By what the hub writes in its header x-error-code, and by what its library and the HTTP libraries below that raise, of
# which the first of an error's classes counts.
_WAYS: dict[str, No] = {
    "RepoNotFound": "repository",
    "GatedRepo": "repository",
    "RevisionNotFound": "revision",
    "EntryNotFound": "entry",
    "LocalEntryNotFoundError": "away",
    "HFValidationError": "name",
    "RepositoryNotFoundError": "repository",
    "RevisionNotFoundError": "revision",
    "RemoteEntryNotFoundError": "entry",
    "EntryNotFoundError": "entry",
    "OSError": "away",
    "TooManyRedirects": "odd",
    "TransportError": "away",
    "RequestError": "away",
}


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
        "revision": (
            f"the hub has the repository, but not the revision '{revision}'",
            "name a branch, tag or commit that it has",
        ),
        "entry": ("the repository has no such folder", "check the path in the repository"),
        "name": (f"the hub allows no such name{more}", "give a path or org/name"),
        "away": (f"the hub cannot be reached and nothing of it is cached{more}", fetch),
        "odd": (f"the hub's answer cannot be used{more}", f"try again later, or {fetch}"),
    }[no]
    return Refusal(what, here + why, instead)


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


def commit(repo: str, revision: str | None, what: str) -> str:
    """The sha of the commit that a branch or tag is, asked once a process: all reads are of one commit.

    ``revision``: a branch, tag, or commit (which is itself); None for the main branch. ``what``: see `refusal`.

    Raises:
        Refusal: the hub has no such repository or revision, cannot be reached, or does not say it.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    key = (endpoint(), repo, revision or "main")
    if key not in _COMMITS:
        _COMMITS[key] = _commit(*key, what)
    return _COMMITS[key]


def _commit(at: str, repo: str, revision: str, what: str) -> str:
    http = Http()
    try:
        url = f"{at}/api/models/{quote(repo)}/revision/{quote(revision, safe='')}?expand=sha"
        answer, _, _ = _asked(http, url, _ANSWER, what, repo, revision)
    finally:
        http.close()
    sha = answer.get("sha") if isinstance(answer, dict) else None
    if not isinstance(sha, str) or not _COMMIT.fullmatch(sha):
        raise refusal(what, "odd", fetch=_fetch(repo), said=f"it does not say which commit '{revision}' is")
    return sha


def listing(repo: str, sha: str, folder: str, what: str) -> dict[str, bool]:
    """What lies in a folder of a repository: its name there, and whether it is a file.

    Raises:
        Refusal: there is no such folder; the hub cannot be reached; the listing has no end, or names what is not in
            the folder.
    """
    http, found, left, begun = Http(), {}, _LISTING, time.monotonic()
    url: str | None = f"{endpoint()}/api/models/{quote(repo)}/tree/{sha}" + (f"/{quote(folder)}" if folder else "")
    try:
        for _ in range(_PAGES):
            answer, url, size = _asked(http, url, min(left, _ANSWER), what, repo, sha)
            left -= size
            for entry in answer if isinstance(answer, list) else [None]:
                name, is_file = _entry(entry, folder, what, repo)
                found[name] = is_file
            if url is None:
                return found
            if time.monotonic() - begun > _SECONDS:
                break
    finally:
        http.close()
    raise refusal(what, "odd", fetch=_fetch(repo), said="its list of files has no end")


def _entry(entry: Any, folder: str, what: str, repo: str) -> tuple[str, bool]:
    """Name inside the folder, and whether it is a file."""
    path = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(path, str):
        raise refusal(what, "odd", fetch=_fetch(repo), said="it is no list of files")
    pure, above = PurePosixPath(path), PurePosixPath(folder)
    stray = pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path or not pure.is_relative_to(above)
    if stray or pure == above:
        raise refusal(what, "odd", fetch=_fetch(repo), said=f"it lists '{shown(path)}', which is not in the folder")
    return str(pure.relative_to(above)), entry.get("type") == "file"


def _asked(http: Http, url: str | None, most: int, what: str, repo: str, revision: str) -> tuple[Any, str | None, int]:
    """JSON of an answer, the next page's address if there is one, and the answer's bytes."""
    from huggingface_hub import is_offline_mode
    from huggingface_hub.utils import build_hf_headers

    fetch = _fetch(repo)
    if is_offline_mode() or url is None:
        raise refusal(what, "away", fetch=fetch, said="HF_HUB_OFFLINE is set")
    # A next page on another server gets no token.
    ours = urlsplit(url)[:2] == urlsplit(endpoint())[:2]
    try:
        with http.get(url, build_hf_headers() if ours else None) as answer:
            no = _no(answer)
            if no is not None:
                raise refusal(what, no, revision=revision, fetch=fetch, said=f"it answers {answer.status}")
            body = answer.body(most)
            return json.loads(body), answer.next_page, len(body)
    except NoAnswer as error:
        raise refusal(what, "away" if error.again else "odd", fetch=fetch, said=error.why) from error
    except (ValueError, RecursionError) as error:
        raise refusal(what, "odd", fetch=fetch, said="it is not JSON") from error


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


def _fetch(repo: str) -> str:
    return f"on a machine with access run: hf download {repo} --local-dir FOLDER, and name the folder in it"
