"""Boundaries where a small byte model is uncertain, as in BLT (arXiv 2412.09871, section 2.3): a comparison, off.

A chunk ends at a byte if the entropy of the model's next byte is at least a threshold. So no boundary depends on a
later byte. The byte model and the threshold are trained before the student and do not change with it.

BLT's model is a transformer of 100M parameters with a window of 512 bytes, and its threshold is set for a mean length
of chunks on its data; here a stack of Mamba2 is the model, and the threshold is learnt (`losses.threshold`).

Shape letters: B rows, L bytes, D width, K 256 bytes.
"""

import torch
from torch import Tensor, nn

from dbyte.model.blocks import Stack, StackShape
from dbyte.model.router import BYTES, over_documents

FIRST_THRESHOLD = 1.0  # nats


class EntropyRouter(nn.Module):
    """A byte model, and the probability that a chunk ends at each byte: sigmoid(entropy - threshold)."""

    def __init__(self, shape: StackShape):
        super().__init__()
        self.byte_embedding = nn.Embedding(BYTES, shape.width)
        self.stack = Stack(shape)
        self.byte_head = nn.Linear(shape.width, BYTES, bias=False)
        self.threshold = nn.Parameter(torch.full((1,), FIRST_THRESHOLD))

    def forward(self, byte_ids_BL: Tensor, document_BL: Tensor) -> Tensor:
        """Return boundary_prob_BL in [0, 1], fp32."""
        return over_documents(self.prob_after(self.read(byte_ids_BL, document_BL))[:, :-1], document_BL)

    def read(self, byte_ids_BL: Tensor, document_BL: Tensor) -> Tensor:
        """The model's states [B, L, D], from which `byte_head` tells the next byte."""
        return self.stack(self.byte_embedding(byte_ids_BL), document_BL)

    def prob_after(self, hidden_XD: Tensor) -> Tensor:
        """The boundary probability (fp32 [X]) at the bytes of these states, at least 0.5 from the threshold on."""
        return (entropy(self.byte_head(hidden_XD)) - self.threshold.float()).sigmoid()


def entropy(logits_XK: Tensor) -> Tensor:
    """Entropy in nats, fp32 [X]."""
    log_XK = logits_XK.float().log_softmax(-1)
    return -(log_XK.exp() * log_XK).sum(-1)
