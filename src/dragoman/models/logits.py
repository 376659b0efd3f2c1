"""A model's last step, from rows behind its final norm to log-probabilities, for chosen rows alone.

In: a causal language model. Out: a function of rows (k, d_model). Refuses models that make something else of their
output layer than is known here: it is tried once against the model's own logits.

Asked for by itself a model gives the logits of every position, 4 GB for a batch of 32 texts of a vocabulary of
262,144; and of last positions cut out of a longer batch torch copies the whole output layer once a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from dragoman.core import Refusal
from dragoman.models.load import text_stack

Logits = Callable[[torch.Tensor], torch.Tensor]
_CLOSE = 0.03  # of the largest logit: bfloat16 rounds by 0.004


@torch.inference_mode()
def logits_of(model: PreTrainedModel) -> Logits:
    """What makes logits (k, vocabulary), float32, of rows (k, d_model) that the text model puts out.

    Raises:
        Refusal: the model's own logits of two tokens are others, or its output layer was not opened.
    """
    net: Any = model
    head: Any = model.get_output_embeddings()
    if head is None:
        raise Refusal("a model's logits", "it was opened for reading, without its output layer", "open it whole")
    told: Any = model.config.get_text_config()
    cap = getattr(told, "final_logit_softcapping", None)
    factor = (getattr(told, "logit_scale", None) or 1.0) / (getattr(told, "logits_scaling", None) or 1.0)

    def logits(rows: torch.Tensor) -> torch.Tensor:
        found = head(rows.contiguous()).float() * factor
        return torch.tanh(found / cap) * cap if cap else found

    probe = torch.tensor([[0, 1]], device=model.device)
    own = net(input_ids=probe, use_cache=False).logits[0].float()
    again = logits(hidden_rows(model, probe)[0])
    if own.shape != again.shape or (own - again).abs().max() > _CLOSE * own.abs().max():
        kind = str(told.model_type)
        raise Refusal(f"a {kind} model's logits", "what it does to its output layer's is not known here", "do without")
    return logits


def hidden_rows(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """(b, T, d_model) rows behind the final norm of token ids (b, T), padded on the right where ``mask`` is 0."""
    stack: Any = text_stack(model)
    return stack(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
