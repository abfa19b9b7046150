"""Run a transformers decoder over packed documents: the student's core and its teacher take the same path.

The core is the teacher's own transformer without embedding and head (paper section 4.1), read through inputs_embeds.
A position attends to earlier positions of its own document, and rotary positions restart with each document, so a
packed document is computed as if it were alone.

Shape letters: B rows, M chunks or tokens, E core width.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.model.packed_attention import attention_blocks


def document_mask(document_BM: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask [B, 1, M, M]: 0 within a document up to the diagonal, -inf elsewhere.

    A float mask, because a boolean one is added as 0/1 by transformers' eager attention.
    """
    M = document_BM.shape[1]
    allowed_BMM = document_BM[:, :, None] == document_BM[:, None, :]
    allowed_BMM = allowed_BMM & torch.ones(M, M, dtype=torch.bool, device=document_BM.device).tril()
    return torch.zeros_like(allowed_BMM, dtype=dtype).masked_fill(~allowed_BMM, float("-inf"))[:, None]


def document_starts(document_BM: Tensor) -> Tensor:
    """True at the first position of each document (bool [B, M]); documents are contiguous runs of one value."""
    return F.pad(document_BM[:, 1:] != document_BM[:, :-1], (1, 0), value=True)


def positions_within(document_BM: Tensor) -> Tensor:
    """Number the positions of each document 0, 1, 2, ... (int64 [B, M])."""
    order_M = torch.arange(document_BM.shape[1], device=document_BM.device).expand_as(document_BM)
    return order_M - order_M.masked_fill(~document_starts(document_BM), 0).cummax(1).values


def restarted(document_BM: Tensor, limit: int) -> Tensor:
    """Split documents (int64 [B, M], -1: padding) of more than `limit` positions into shorter ones, all renumbered."""
    M = document_BM.shape[1]
    if M <= limit:
        return document_BM
    parts_BM = document_BM * M + positions_within(document_BM) // limit
    return parts_BM.masked_fill(document_BM < 0, -1)


def run_core(core: nn.Module, input_BME: Tensor, document_BM: Tensor, cache: object | None = None) -> Tensor:
    """Return the core's last hidden states [B, M, E]; padded positions carry document -1.

    cache: stores keys and values as transformers' caches do (`decode/core_cache.py`); None: they are not stored.

    Raises:
        ValueError: if a document has more positions than the core was built for.
    """
    position_BM = positions_within(document_BM)
    check_positions(int(position_BM.masked_fill(document_BM < 0, 0).max()) + 1, core.config.max_position_embeddings)
    return core(inputs_embeds=input_BME, attention_mask=document_mask(document_BM, input_BME.dtype),
                position_ids=position_BM, past_key_values=cache, use_cache=cache is not None,
                blocks=attention_blocks(position_BM)).last_hidden_state


def first_layers(core: nn.Module, layers: int) -> nn.Module:
    """Return the first layers of a core, whose weights they are, without the norm after its last one.

    ValueError for a number of layers that the core does not have.
    """
    if not 1 <= layers <= len(core.layers):
        raise ValueError(f"this core has {len(core.layers)} layers: name 1 to {len(core.layers)} of them to match, "
                         f"found {layers}")
    first = copy.copy(core)
    first._modules = core._modules | {"layers": core.layers[:layers], "norm": nn.Identity()}
    return first


def check_positions(needed: int, limit: int) -> None:
    """Raise ValueError if a document needs more positions than the core has."""
    if needed > limit:
        raise ValueError(f"a document has {needed} chunks, but the core was built for {limit} positions "
                         "(max_position_embeddings): shorten the text, or pack shorter rows")
