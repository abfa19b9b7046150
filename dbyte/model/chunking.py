"""Chunk and dechunk: from bytes to chunks at boundaries, and back without leaking the future (paper section 4.1.3).

A boundary marks the last byte of a chunk. `chunk` keeps the encoder's state there. `dechunk` is the shifted
up-sampling: chunk k becomes visible at its own last byte, not before; the bytes inside chunk k + 1 see chunk k, and
the bytes before a document's first boundary see a learned NULL.

Two options of H-Net (arXiv 2507.07955, section 2.2) are off in the paper and on in the authors' training, but not in
their generation; here both paths agree. `smooth` averages chunks, each weighted by the confidence of the boundary that
opened it: the one that closed it would be a function of the next byte, which the logits at that place predict.
`straight_through` passes gradients to the router and changes no value.

Shape letters: B rows, L bytes, M chunks (padded to the largest count in the batch), E core width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dbyte.model.backends import operators
from dbyte.model.core import document_starts

CONFIDENCE_FLOOR = 1e-4  # H-Net's: the log of 1 - p must stay finite


@dataclass(frozen=True)
class Chunks:
    """Where the chunks of a batch end; int64 unless stated.

    position_BM: the byte that ends each chunk, 0 where padded.   document_BM: its document, -1 where padded.
    mask_BM: bool, True for a real chunk.
    visible_BL: the chunk that byte i may see, -1 for NULL.   boundary_BL: bool, the given boundaries.
    """

    position_BM: Tensor
    document_BM: Tensor
    mask_BM: Tensor
    visible_BL: Tensor
    boundary_BL: Tensor


def find_chunks(boundary_BL: Tensor, document_BL: Tensor, mask_BL: Tensor) -> Chunks:
    """Find the chunks that boundary_BL (bool) closes; padded bytes (mask_BL False) close none.

    Raises:
        ValueError: if a boundary lies on a padded byte.
    """
    if bool((boundary_BL & ~mask_BL).any()):
        raise ValueError("boundary_BL marks padded bytes (mask_BL False); boundaries belong to real bytes only: "
                         "pass boundary_BL & mask_BL")
    ends_BL = boundary_BL.long().cumsum(1)
    count_B = ends_BL[:, -1]
    M = max(int(count_B.max()), 1)
    row, byte = boundary_BL.nonzero(as_tuple=True)
    slot = ends_BL[row, byte] - 1
    position_BM = boundary_BL.new_zeros(boundary_BL.shape[0], M, dtype=torch.long)
    position_BM[row, slot] = byte
    mask_BM = torch.arange(M, device=count_B.device) < count_B[:, None]
    document_BM = document_BL.gather(1, position_BM).masked_fill(~mask_BM, -1)
    visible_BL = ends_BL - 1
    sees_own_BL = document_BM.gather(1, visible_BL.clamp(min=0)) == document_BL
    visible_BL = visible_BL.masked_fill(~sees_own_BL | ~mask_BL, -1)
    return Chunks(position_BM, document_BM, mask_BM, visible_BL, boundary_BL)


def chunk(encoded_BLE: Tensor, chunks: Chunks) -> Tensor:
    """Keep the states at boundaries: chunk_BME, zeros where padded."""
    index_BME = chunks.position_BM[..., None].expand(-1, -1, encoded_BLE.shape[-1])
    return encoded_BLE.gather(1, index_BME) * chunks.mask_BM[..., None]


def dechunk(core_BME: Tensor, null_E: Tensor, chunks: Chunks) -> Tensor:
    """Give each byte the chunk that it may see, or NULL: [B, L, E]."""
    with_null_BME = torch.cat([null_E.expand(core_BME.shape[0], 1, -1).to(core_BME.dtype), core_BME], dim=1)
    index_BLE = (chunks.visible_BL + 1)[..., None].expand(-1, -1, core_BME.shape[-1])
    return with_null_BME.gather(1, index_BLE)


def opening_confidence(boundary_prob_BL: Tensor, chunks: Chunks) -> Tensor:
    """The router's probability of the boundary before each chunk, in (0, 1); 1 for a document's first: [B, M]."""
    closing_BM = boundary_prob_BL.gather(1, chunks.position_BM)
    opening_BM = torch.cat([torch.ones_like(closing_BM[:, :1]), closing_BM[:, :-1]], dim=1)
    opening_BM = opening_BM.clamp(CONFIDENCE_FLOOR, 1 - CONFIDENCE_FLOOR)
    return opening_BM.masked_fill(document_starts(chunks.document_BM), 1.0)


def smooth(core_BME: Tensor, confidence_BM: Tensor, chunks: Chunks) -> Tensor:
    """Exponential average over the chunks of a document: s_k = c_k z_k + (1 - c_k) s_{k-1}, and s_0 = z_0 ([B, M, E]).

    confidence_BM: c, from `opening_confidence`. One head of SSD with decay 1 - c.
    """
    first_BM = document_starts(chunks.document_BM)
    step_BM = -torch.log1p(-confidence_BM.float().masked_fill(first_BM, 0.5))  # nothing precedes the first: any decay
    input_BME = core_BME * (confidence_BM / step_BM)[..., None].to(core_BME.dtype)
    one_BM1 = torch.ones_like(step_BM)[..., None].to(core_BME.dtype)
    smoothed_BM1E, _ = operators("fast", input_BME).scan(
        input_BME[:, :, None], step_BM[..., None], -step_BM.new_ones(1), one_BM1, one_BM1, step_BM.new_zeros(1),
        chunks.document_BM, chunk_size=64)
    return smoothed_BM1E[:, :, 0]


def straight_through(up_BLE: Tensor, boundary_prob_BL: Tensor, boundary_BL: Tensor) -> Tensor:
    """Return up_BLE unchanged; its gradient is that of its product with the router's confidence in each decision."""
    confidence_BL = torch.where(boundary_BL, boundary_prob_BL, 1 - boundary_prob_BL)
    return up_BLE * (1 + (confidence_BL - confidence_BL.detach()))[..., None].to(up_BLE.dtype)
