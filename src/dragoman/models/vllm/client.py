"""A vLLM server asked over HTTP: what it is, and what it says of a prompt. Imports no torch, so a dry run can ask.

In: an address, a request. Out: its version, its model and the longest row of that; the object of an answer. Refuses a
server that does not answer, in time or at all, that wants a key, that is no vLLM, serves several models or none, or
takes no embeddings, and answers that are no JSON or larger than is due. A redirect is not followed. A key is sent where
the environment has one, and is never told.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from dragoman.core import Refusal, public_address
from dragoman.store.http import Answer, Bounds, Http, NoAnswer
from dragoman.store.spans import listed, shown

KEY = "VLLM_API_KEY"  # as vLLM's own server reads it
_ANSWER = 1 << 20  # bytes of what it tells of itself, and of an error
SOON = Bounds(redirects=0)
# Of one row, which may wait for others: there is no byte of it before the last token.
WHOLE = Bounds(silent=600.0, grace=600.0, redirects=0)
_AGAIN = "and run the same command again, which goes on with what is finished"


class About(NamedTuple):
    """What a server is: its ``version``, the name of its ``model``, and how many tokens a row may have (``room``)."""

    version: str
    model: str
    room: int


class Client:
    """Connections to one server, shared by threads; none is left open by ``about``, and of rows none after ``close``.

    ``name``: its address, without passwords. ``serve``: gives the line that starts a server that does, for refusals.
    """

    def __init__(self, address: str, serve: Callable[[], str] | None = None) -> None:
        """Open nothing yet."""
        self.name, self.serve = public_address(address), serve or serve_line
        self._base = address.rstrip("/").removesuffix("/v1")
        self._soon, self._whole = Http(SOON), Http(WHOLE)

    @property
    def what(self) -> str:
        """What refusals call it."""
        return f"vLLM at {self.name}"

    def close(self) -> None:
        """Close the connections of rows; asking again opens new ones."""
        self._whole.close()

    def cut(self) -> None:
        """End, from another thread, what is under way."""
        self._whole.cut()

    def about(self) -> About:
        """What the server is.

        Raises:
            Refusal: as the module says.
        """
        try:
            version, found = self._told("/version").get("version"), self._told("/v1/models").get("data")
        finally:
            self._soon.close()
        if not isinstance(version, str) or not re.fullmatch(r"[\w.+-]{1,60}", version):
            raise self._odd("it does not say which version of vLLM it is")
        models = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        names = [one.get("id") for one in models]
        if len(models) != 1:
            why = f"it serves {len(models)} models ({listed(names)})" if models else "it serves no model"
            raise Refusal(self.what, why, f"have it serve one, under one name: {self.serve()}")
        name, room = names[0], models[0].get("max_model_len")
        if not isinstance(name, str) or not name or len(name) > 1000 or not name.isprintable():
            raise self._odd("its model has no name")
        if not isinstance(room, int) or room < 1:
            raise self._odd("it does not say how long a row may be (max_model_len)")
        return About(version, name, room)

    def completed(self, asked: Mapping[str, object], embeddings: bytes, most: int) -> dict[str, object]:
        """The object of what is answered to a request for one row, of at most ``most`` bytes.

        ``embeddings``: of its prompt, in base64.

        Raises:
            NoAnswer: see ``refusal``.
            Refusal: it answers something else.
        """
        headers = {"Content-Type": "application/json", **_key()}
        # Base64 needs no escapes, and looking for some takes longer than all else that is done here for a row.
        body = json.dumps(asked).encode()[:-1] + b', "prompt_embeds": "%b"}' % embeddings
        with self._whole.post(f"{self._base}/v1/completions", body, headers) as answer:
            self._refuse_status(answer)
            return self._object(answer.body(most))

    def refusal(self, none: NoAnswer) -> Refusal:
        """No answer, as what is told of it."""
        return Refusal(self.what, f"it gave no answer that can be used ({none.why})", f"look at its log, {_AGAIN}")

    def _told(self, path: str) -> dict[str, object]:
        """What it tells of itself."""
        try:
            with self._soon.get(f"{self._base}{path}", _key()) as answer:
                if answer.status == 404:
                    raise self._odd(f"it answers 404 to {path}")
                self._refuse_status(answer)
                return self._object(answer.body(_ANSWER))
        except NoAnswer as none:
            why = f"it gave no answer that can be used ({none.why})"
            raise Refusal(self.what, why, f"start it ({self.serve()}), {_AGAIN}") from none

    def _refuse_status(self, answer: Answer) -> None:
        """Refuse what is no success, with what the server says of it."""
        if answer.status == 200:
            return
        if answer.status in {401, 403}:
            raise Refusal(self.what, f"it wants a key ({answer.status})", f"set {KEY} to one that it takes")
        said = ""
        with suppress(NoAnswer, ValueError, RecursionError, KeyError, TypeError):  # what it says is no sentence then
            said = " ".join(str(json.loads(answer.body(_ANSWER))["error"]["message"]).split())
        if "--enable-prompt-embeds" in said:
            why = "it was started without --enable-prompt-embeds"
            raise Refusal(self.what, why, f"start it with that: {self.serve()}")
        why = f"it answers {answer.status}{f': {shown(said, 300)}' if said else ''}"
        told = f"have it serve this very model ({self.serve()})" if answer.status == 400 else "look at its log"
        raise Refusal(self.what, why, f"{told}, {_AGAIN}")

    def _object(self, body: bytes) -> dict[str, object]:
        """An object out of an answer."""
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise self._odd(f"its answer is no JSON ({shown(body[:40].decode('latin-1'))})") from error
        if not isinstance(found, dict):
            raise self._odd("its answer is no object")
        return found

    def _odd(self, why: str) -> Refusal:
        return Refusal(self.what, why, f"see that a vLLM server runs there, {_AGAIN}")


def serve_line(folder: str = "FOLDER", dtype: str = "DTYPE") -> str:
    """What starts a server of a folder."""
    return f"vllm serve {shlex.quote(folder)} --dtype {dtype} --enable-prompt-embeds --generation-config vllm"


def _key() -> dict[str, str]:
    """The header of a key, where there is one."""
    key = os.environ.get(KEY)
    return {"Authorization": f"Bearer {key}"} if key else {}
