"""Attention over packed documents that skips the keys which no query of a block can see.

A packed row is a run of documents, and the library's attention computes every pair of its positions before it masks
those of other documents and later ones. Here a row is divided into a few blocks of queries. Each block reads only the
keys from the start of the earliest document that is open in it, in any row, to its own end.

Importing this registers the implementation with transformers under the name PACKED; models that were loaded with it
behave as with `sdpa` wherever no blocks are given.
"""

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

PACKED = "dbyte_packed"
BLOCKS = 8
MIN_BLOCK = 64
GPU_BLOCK = 1024  # its smallest: there a call costs more than what it computes and then masks
ALIGNED = 8  # a GPU's kernel reads a mask in groups of this many numbers and assumes that blocks begin at one

Block = tuple[int, int, int]  # first query, end of queries and keys, first key


def attention_blocks(position_BM: Tensor, *, gpu: bool | None = None) -> list[Block]:
    """Divide M positions into at most BLOCKS blocks; position_BM int64: each position's number within its document.

    gpu: sizes for a GPU or for a CPU; None: for the device of position_BM.
    """
    M = position_BM.shape[1]
    on_gpu = position_BM.device.type != "cpu" if gpu is None else gpu
    least, step = (GPU_BLOCK, ALIGNED) if on_gpu else (MIN_BLOCK, 1)
    size = max(-(-M // BLOCKS), least)
    starts = range(0, M, size)
    open_S = (torch.arange(0, M, size, device=position_BM.device) - position_BM[:, ::size]).min(0).values
    return [(start, min(start + size, M), first - first % step)
            for start, first in zip(starts, open_S.tolist(), strict=True)]


def packed_attention(
    module: nn.Module, query_BHMW: Tensor, key_BGMW: Tensor, value_BGMW: Tensor, attention_mask: Tensor | None,
    blocks: list[Block] | None = None, **options,
) -> tuple[Tensor, None]:
    """Compute transformers' `sdpa` attention block by block; returns ([B, M, H, W], None)."""
    if blocks is None:
        return sdpa_attention_forward(module, query_BHMW, key_BGMW, value_BGMW, attention_mask, **options)
    parts = [sdpa_attention_forward(module, query_BHMW[:, :, start:end], key_BGMW[:, :, first:end],
                                    value_BGMW[:, :, first:end], attention_mask[:, :, start:end, first:end],
                                    **options)[0] for start, end, first in blocks]
    return torch.cat(parts, dim=1), None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
