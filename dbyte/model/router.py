"""The one-byte look-ahead router: does a chunk end at this byte? (paper section 4.1.1, Eq. 1)

    p_i = (1 - cos(q(x_i), k(x_{i+1}))) / 2,   boundary iff p_i >= 0.5

Deviation: Eq. 1 prints 1 - cos / 2, which lies in [0.5, 1.5] and cannot be a probability; this is H-Net's form.
q and k carry weights because step 1.3 trains the router alone. `ffn_width` > 0 replaces the two linear maps by SwiGLU
networks, as in the authors' code.

Shape letters: B rows, L bytes, D byte width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.model.blocks import SwiGLU

THRESHOLD = 0.5


def document_ends(document_BL: Tensor) -> Tensor:
    """Mark the last byte of each document (bool [B, L]); a row's last byte counts as one."""
    end_BL = torch.ones_like(document_BL, dtype=torch.bool)
    end_BL[:, :-1] = document_BL[:, 1:] != document_BL[:, :-1]
    return end_BL


class Router(nn.Module):
    """Probability that a chunk ends at each byte, from the encoder's states of this byte and of the next one."""

    def __init__(self, width: int, ffn_width: int = 0):
        super().__init__()
        self.query = SwiGLU(width, ffn_width) if ffn_width else nn.Linear(width, width, bias=False)
        self.key = SwiGLU(width, ffn_width) if ffn_width else nn.Linear(width, width, bias=False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start linear maps as the identity (H-Net), so that p begins as the plain cosine of neighbouring states."""
        for projection in (self.query, self.key):
            if isinstance(projection, nn.Linear):
                nn.init.eye_(projection.weight)

    def forward(self, hidden_BLD: Tensor, document_BL: Tensor) -> Tensor:
        """Return boundary_prob_BL in [0, 1]; the last byte of a document has no next byte: p = 1."""
        cos_BL = F.cosine_similarity(self.query(hidden_BLD[:, :-1]), self.key(hidden_BLD[:, 1:]), dim=-1)
        prob_BL = F.pad((1 - cos_BL.float()).clamp(0, 2) / 2, (0, 1), value=1.0)
        return prob_BL.masked_fill(document_ends(document_BL), 1.0)
