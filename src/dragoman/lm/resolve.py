"""From what a person writes (packaged name, local folder, hub id) to a folder on disk: one path for all three.

In: a reference such as ``tiny-gemma``, ``./my-model`` or ``org/name@revision``. Out: a folder. Refuses what is in
none of the three places, and says which files are missing and how to get them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from dragoman import tiny
from dragoman.core import Refusal

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(?:@[\w./-]+)?$")
# Llama repositories carry a second copy of the weights (140 GB) that transformers never reads; pickles are never read.
SKIP = ["original/*", "consolidated*", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx"]


def folder_of(ref: str | Path) -> Path:
    """The folder that holds a model, verbalizer or dictionary.

    Raises:
        Refusal: neither a packaged name, nor a folder here, nor a hub repository that is cached or can be reached.
    """
    text = str(ref)
    if text in tiny.MODELS:
        from dragoman.lm.convert import converted

        return converted(tiny.MODELS[text])
    if text in tiny.DATA:
        return tiny.data(text)
    path = Path(text).expanduser()
    if path.exists():
        if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
            raise Refusal(f"folder {path}", "it cannot be read", "grant read permission or copy it")
        return path
    if not HUB_ID.match(text) or text.startswith((".", "/")):
        names = ", ".join([*tiny.MODELS, *tiny.DATA])
        raise Refusal(
            f"'{text}'",
            "there is no such folder here, and it is no hub id",
            f"give a path, org/name, or one of {names}",
        )
    return _hub(text)


def _hub(ref: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo, _, revision = ref.partition("@")
    try:
        return Path(snapshot_download(repo, revision=revision or None, ignore_patterns=SKIP))
    except RepositoryNotFoundError as err:
        raise Refusal(
            f"'{ref}'", "the hub has no such repository, or it is gated", "check the id, and run: hf auth login"
        ) from err
    except RevisionNotFoundError as err:
        raise Refusal(
            f"'{ref}'",
            f"the hub has the repository, but not the revision '{revision}'",
            "name a branch, tag or commit that it has",
        ) from err
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as err:
        raise Refusal(
            f"'{ref}'",
            "the hub cannot be reached and nothing of it is cached"
            " (config.json, tokenizer files and *.safetensors are missing)",
            f"on a machine with access run: hf download {repo}"
            + (f" --revision {revision}" if revision else "")
            + " --local-dir FOLDER, and pass FOLDER",
        ) from err
