"""What the token head says of the next byte while text is written (`model/token_prior.py`), row by row.

Shape letters: B rows, R rows whose chunk ended, L bytes, V tokens, E core width, M chunks, K2 joint symbols.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dbyte.model.chunking import Chunks
from dbyte.model.token_prior import TokenPrior

NOWHERE = -1  # the depth of a node that is not there


class RunningPrior:
    """The probabilities of all tokens after each row's newest chunk, and the node that the bytes since have led to."""

    def __init__(self, prior: TokenPrior, token_head: Callable[[Tensor], Tensor], rows: int, *, device: torch.device):
        """For rows that have no byte yet; token_head: the student's, or an engine's."""
        self.prior = prior
        self.token_head = token_head
        self.prob_BV = torch.zeros(rows, len(prior.vocabulary), device=device)
        self.node_B2 = torch.zeros(rows, 2, dtype=torch.long, device=device)  # its first token's place, and its depth

    def advance(self, byte_B: Tensor, ended_B: Tensor) -> None:
        """Take in a byte of each row, and whether a chunk ended at it, after which `close` is to follow."""
        self._lead_to([b"" if ended else text if text is None else text + bytes([byte])
                       for byte, ended, text in zip(byte_B.tolist(), ended_B.tolist(), self._begun(), strict=True)])

    def close(self, core_RE: Tensor, row_R: Tensor) -> None:
        """Take in the core's states of rows whose chunk has just ended."""
        self.prob_BV[row_R] = self.prior.probabilities(self.token_head(core_RE)).to(self.prob_BV.dtype)

    def prefill(self, core_BME: Tensor, chunks: Chunks, ids_BL: Tensor, length_B: Tensor) -> None:
        """Take in the first length_B (>= 0) bytes of each row, and the core's states of the chunks that ended there."""
        count_B = chunks.mask_BM.sum(1)
        row_R = count_B.nonzero()[:, 0]
        newest_R = count_B[row_R] - 1
        self.close(core_BME[row_R, newest_R], row_R)
        opened_B = torch.zeros_like(length_B)
        opened_B[row_R] = chunks.position_BM[row_R, newest_R] + 1
        self._lead_to([bytes(ids_L[opened:length]) for ids_L, opened, length in zip(
            ids_BL.tolist(), opened_B.tolist(), length_B.tolist(), strict=True)])

    def log_probs(self) -> Tensor:
        """The prior of what follows each row's newest byte [B, K2]."""
        return self.prior.log_probs(self.prob_BV, [[text if text is None else self.prior.vocabulary.node(text)]
                                                   for text in self._begun()])

    def _begun(self) -> list[bytes | None]:
        """The bytes of each row after its newest chunk, None where no token begins with them."""
        return [None if depth == NOWHERE else self.prior.vocabulary.texts[low][:depth]
                for low, depth in self.node_B2.tolist()]

    def _lead_to(self, texts: list[bytes | None]) -> None:
        nodes = [None if text is None else self.prior.vocabulary.node(text) for text in texts]
        self.node_B2.copy_(torch.tensor([(node.low, node.depth) if node else (0, NOWHERE) for node in nodes]))
