"""Where the tokens of a batch lie in its bytes, and the chunks that two tokenizers have in common.

A chunk is the shortest run of bytes that both tokenizers end with a token. What compares a student with a teacher of
another tokenizer reads it here: ALM the probabilities of chunks, and methods that merge the distributions of the tokens
of a span (as GOLD does) which tokens a span has.

Shape letters: B rows, L bytes, M tokens, T tokens of all rows one after another, J bytes of a token, C chunks.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.text.packing import Batch
from dbyte.text.spans import EOS

END = 256  # the symbol of a text's end, next to the 256 bytes


def token_ends(batch: Batch) -> Tensor:
    """The place of each token's last byte in the rows one after another: int64 [T], in the order of token_mask_BM."""
    return batch.boundary_BL.flatten().nonzero()[:, 0]


class TokenSpans(NamedTuple):
    """The bytes of some tokens: their places in all rows one after another, at most J of each.

    place_TJ: int64. mask_TJ: False beyond a token's last byte. symbol_TJ: int64, the byte, or END for EOS; 0 beyond.
    """

    place_TJ: Tensor
    mask_TJ: Tensor
    symbol_TJ: Tensor


def token_spans(batch: Batch, where_BM: Tensor, *, longest: int) -> TokenSpans:
    """The first `longest` bytes of the tokens at where_BM (bool [B, M])."""
    row_bytes = batch.byte_ids_BL.shape[1]
    end_T = token_ends(batch)
    # a token begins after the one before it, the first of a row with the row
    start_T = torch.maximum(F.pad(end_T[:-1] + 1, (1, 0)), end_T // row_bytes * row_bytes)
    chosen_T = where_BM[batch.token_mask_BM]
    start_T1, size_T1 = start_T[chosen_T, None], (end_T - start_T + 1)[chosen_T, None]
    offset_J = torch.arange(longest, device=end_T.device)
    mask_TJ = offset_J < size_T1
    place_TJ = (start_T1 + offset_J).where(mask_TJ, start_T1)
    byte_TJ = batch.byte_ids_BL.flatten()[place_TJ]
    return TokenSpans(place_TJ, mask_TJ, byte_TJ.masked_fill(byte_TJ == EOS, END) * mask_TJ)


class Chunks(NamedTuple):
    """The chunks of one tokenizer's tokens.

    of_token_BM: int64, the chunk's number over all rows, 0 on padding. last_BM: bool, the last token of its chunk.
    """

    of_token_BM: Tensor
    last_BM: Tensor


def common_chunks(student: Batch, teacher: Batch) -> tuple[Chunks, Chunks]:
    """The chunks of the student's and of the teacher's tokens, numbered alike; a row of bytes has them in order."""
    common_X = (student.boundary_BL & teacher.boundary_BL).flatten()
    before_X = common_X.long().cumsum(0) - common_X.long()

    def chunks(batch: Batch) -> Chunks:
        end_T = token_ends(batch)
        return Chunks(*(torch.zeros(batch.token_mask_BM.shape, dtype=values_X.dtype, device=end_T.device)
                        .masked_scatter(batch.token_mask_BM, values_X[end_T]) for values_X in (before_X, common_X)))

    return chunks(student), chunks(teacher)
