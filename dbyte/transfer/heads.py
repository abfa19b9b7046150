"""Byte heads: the bytes of the next token from the hidden state that predicts it; dropped when training is done.

    parallel     a linear map for each of the first ten bytes, none of which sees the others (the paper's)
    sequential   a recurrent network that also reads the token's bytes so far
    decoder      the stack of dbyte's decoder, over the token's bytes so far and the hidden state

The paper's head cannot say what its target says: the target of byte j knows the bytes before it. The other two can.
All are called with hidden_TE, and symbol_TJ, the token's bytes, and give logits [T, J, S].

Shape letters: T tokens, J bytes of a token, E width of the model, D width of the head, S symbols.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.model.blocks import Stack, StackShape

SYMBOLS = 260  # 256 bytes and four more, of which the paper says no more
END = 256  # the first of these: the end of the text
LONGEST = 10  # bytes of a token that are predicted
DECODER = StackShape(width=128, layers=1, ffn_width=256, state_size=32, conv_width=4, expand=2, head_width=32,
                     chunk_size=16)


class ParallelHead(nn.Module):
    """Ten linear maps as one."""

    def __init__(self, width: int):
        super().__init__()
        self.maps = nn.Linear(width, LONGEST * SYMBOLS)

    def forward(self, hidden_TE: Tensor, symbol_TJ: Tensor) -> Tensor:
        return self.maps(hidden_TE).unflatten(-1, (LONGEST, SYMBOLS))


class SequentialHead(nn.Module):
    """A GRU whose state begins as the hidden state, and which reads each byte before it predicts the next."""

    def __init__(self, width: int):
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, width)
        self.network = nn.GRU(width, width, batch_first=True)
        self.to_symbols = nn.Linear(width, SYMBOLS)

    def forward(self, hidden_TE: Tensor, symbol_TJ: Tensor) -> Tensor:
        return self.to_symbols(self.network(self.embedding(shifted(symbol_TJ)), hidden_TE.contiguous()[None])[0])


class DecoderHead(nn.Module):
    """A stack over the bytes of one token, to each of which the hidden state is added."""

    def __init__(self, width: int):
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, DECODER.width)
        self.projection = nn.Linear(width, DECODER.width)
        self.stack = Stack(DECODER)
        self.to_symbols = nn.Linear(DECODER.width, SYMBOLS)

    def forward(self, hidden_TE: Tensor, symbol_TJ: Tensor) -> Tensor:
        input_TJD = self.embedding(shifted(symbol_TJ)) + self.projection(hidden_TE)[:, None]
        return self.to_symbols(self.stack(input_TJD))


def shifted(symbol_TJ: Tensor) -> Tensor:
    """What has been read before each byte is predicted: nothing (the last symbol), then the bytes."""
    return F.pad(symbol_TJ[:, :-1], (1, 0), value=SYMBOLS - 1)


HEADS = {"parallel": ParallelHead, "sequential": SequentialHead, "decoder": DecoderHead}
