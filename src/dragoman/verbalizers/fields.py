"""Fields that files beside checkpoints have in common, whoever reads them: their types, and which block they mean.

In: values as parsed from YAML or JSON. Out: frozen models; the block of a site by the file, or by a checkpoint's name.
Refuses values of another type, and names that tell of two blocks.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dragoman.core import Refusal
from dragoman.store.spans import shown

_LAYER_IN_NAME = re.compile(r"(?:^|[-_./])L(\d+)(?=$|[-_./@])")


def _no_bool(value: Any) -> Any:
    """YAML's true is 1 to Python, and never meant as a number."""
    if isinstance(value, bool):
        raise ValueError("a number is due, not a yes or no")
    return value


def _short(value: Any) -> Any:
    """A number, a number as text, or one of a few words."""
    if isinstance(value, str) and len(value) > 40:
        raise ValueError(f"a number or a word is due, not {len(value)} characters")
    return value


Natural = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=1 << 53)]
Width = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=1 << 53)]
Scale = Annotated[float | str, BeforeValidator(_short), BeforeValidator(_no_bool)]


class Part(BaseModel):
    """A file or a section of one; what is not named here is of no account."""

    model_config = ConfigDict(extra="ignore", frozen=True)


_Model = TypeVar("_Model", bound=BaseModel)


class Reader(Part):
    """A reconstructor's section of a sidecar: the block it predicts, under two names."""

    extraction_layer_index: Natural | None = None
    num_hidden_layers: Natural | None = None

    @property
    def block(self) -> int | None:
        """In a sidecar ``num_hidden_layers`` is the block itself, not the count of blocks that config.json states."""
        return self.num_hidden_layers if self.extraction_layer_index is None else self.extraction_layer_index


class Origin(Part):
    """Section ``extraction``: where the vectors are from."""

    d_model: Width | None = None
    layer_index: Natural | None = None
    base_model: str | None = None


_Origin = TypeVar("_Origin", bound=Origin)


class Described(Part, Generic[_Origin]):
    """What the sidecars of verbalizers and of reconstructors have in common; every field may be absent."""

    kind: str | None = None
    role: str | None = None
    base_checkpoint: str | None = None
    d_model: Width | None = None
    extraction_layer_index: Natural | None = None
    extraction: _Origin
    reconstructor: Reader | None = None
    ar: Reader | None = None
    critic: Reader | None = None

    @property
    def base(self) -> str | None:
        """The model it was made from."""
        return self.base_checkpoint or self.extraction.base_model

    @property
    def blocks(self) -> dict[str, int]:
        """The block by each field that states it; they should all be one."""
        stated = {
            "extraction_layer_index": self.extraction_layer_index,
            "extraction.layer_index": self.extraction.layer_index,
        }
        readers = {"reconstructor": self.reconstructor, "ar": self.ar, "critic": self.critic}
        stated |= {name: None if reader is None else reader.block for name, reader in readers.items()}
        return {name: block for name, block in stated.items() if block is not None}


def checked(model: type[_Model], values: Any, what: str) -> _Model:
    """A file's values as its model; refuse what is no mapping, and fields of another type.

    Published files write an empty section as null.
    """
    if not isinstance(values, dict):
        raise Refusal(what, "it is not a mapping of names to values", "get the published file again")
    try:
        return model.model_validate({str(k): v for k, v in values.items() if v is not None})
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise Refusal(what, f"its field {shown(where)} is wrong ({first['msg']})", "mend that field") from err


def block_in_name(name: str, what: str) -> int | None:
    """The block a checkpoint's name tells (``-L20-``), None where it tells none; refuse a name that tells of two."""
    found = sorted({int(digits) for digits in _LAYER_IN_NAME.findall(name)})
    if len(found) > 1:
        why = f"its files state no block, and its name tells of several ({', '.join(map(str, found))})"
        raise Refusal(what, why, "add extraction_layer_index to its sidecar")
    return found[0] if found else None
