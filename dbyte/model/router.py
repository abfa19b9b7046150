"""The one-byte look-ahead router: does a chunk end at this byte? (paper section 4.1.1, Eq. 1, and appendix B)

Integrated: p_i = (1 - cos(q(x_i), k(x_{i+1}))) / 2 of the encoder's states, boundary iff p_i >= 0.5. Deviation: Eq. 1
prints 1 - cos / 2, which lies in [0.5, 1.5] and cannot be a probability; this is H-Net's form. q and k carry weights
because step 1.3 trains the router alone. `ffn_width` > 0 replaces the two linear maps by SwiGLU networks, as in the
authors' code. Deviation, off unless `suffixes` are given: they add to the log-odds of p, see suffix.py.

Split: p_i = sigmoid(w . h_{i+1}) of states h that a stack of its own computes from raw bytes. The appendix does not say
whether it looks ahead; here it sees what the integrated router sees, so that the comparison is one of features alone.

Shape letters: B rows, L bytes, D byte width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.model.blocks import Stack, StackShape, SwiGLU
from dbyte.model.core import document_starts
from dbyte.model.suffix import SuffixOdds

THRESHOLD = 0.5
BYTES = 256


def over_documents(prob_BL: Tensor, document_BL: Tensor) -> Tensor:
    """Append a column for the row's last byte: [B, L]; p = 1 at a document's last byte, which has no next byte."""
    next_starts_BL = document_starts(document_BL)[:, 1:]
    return F.pad(prob_BL.masked_fill(next_starts_BL, 1.0), (0, 1), value=1.0)


def boundary_prob(query: Tensor, key: Tensor) -> Tensor:
    """Eq. 1 for pairs of neighbouring bytes, query [..., D] of the first one and key of the second: fp32 [...]."""
    return (1 - F.cosine_similarity(query, key, dim=-1).float()).clamp(0, 2) / 2


class Router(nn.Module):
    """Probability that a chunk ends at each byte, from the encoder's states of this byte and of the next one."""

    def __init__(self, width: int, ffn_width: int = 0, suffixes: SuffixOdds | None = None):
        super().__init__()
        self.suffixes = suffixes
        self.query = SwiGLU(width, ffn_width) if ffn_width else nn.Linear(width, width, bias=False)
        self.key = SwiGLU(width, ffn_width) if ffn_width else nn.Linear(width, width, bias=False)
        if not ffn_width:  # as in H-Net, p begins as the plain cosine of neighbouring states
            nn.init.eye_(self.query.weight)
            nn.init.eye_(self.key.weight)

    def forward(self, encoded_BLD: Tensor, document_BL: Tensor) -> Tensor:
        """Return boundary_prob_BL in [0, 1], fp32."""
        prob_BL = boundary_prob(self.query(encoded_BLD[:, :-1]), self.key(encoded_BLD[:, 1:]))
        return over_documents(prob_BL, document_BL)


class SplitRouter(nn.Module):
    """Probability that a chunk ends at each byte, from the raw bytes up to the next one, without the encoder."""

    def __init__(self, shape: StackShape):
        super().__init__()
        self.byte_embedding = nn.Embedding(BYTES, shape.width)
        self.stack = Stack(shape)
        self.head = nn.Linear(shape.width, 1)

    def forward(self, byte_ids_BL: Tensor, document_BL: Tensor) -> Tensor:
        """Return boundary_prob_BL in [0, 1], fp32."""
        hidden_BLD = self.stack(self.byte_embedding(byte_ids_BL), document_BL)
        return over_documents(self.prob_before(hidden_BLD[:, 1:]), document_BL)

    def prob_before(self, hidden_XD: Tensor) -> Tensor:
        """The boundary probability (fp32 [X]) of the bytes just before those with these states of the stack."""
        return self.head(hidden_XD)[..., 0].float().sigmoid()
