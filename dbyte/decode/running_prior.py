"""What the token head says of the next byte while text is written (`model/token_prior.py`), row by row.

Shape letters: B rows, R rows whose chunk ended, V tokens, W newest bytes, K2 joint symbols.
"""

import torch
from torch import Tensor

from dbyte.model.token_prior import TokenPrior


class RunningPrior:
    """The probabilities of all tokens after each row's newest chunk (prob_BV), and the bytes since then (since_B)."""

    def __init__(self, prior: TokenPrior, rows: int, *, device: torch.device):
        """For rows that have no byte yet."""
        self.prior = prior
        self.prob_BV = torch.zeros(rows, len(prior.vocabulary), device=device)
        self.since_B = torch.zeros(rows, dtype=torch.long, device=device)

    def close(self, logits_RV: Tensor, row_R: Tensor) -> None:
        """Take in the token head's logits of rows whose chunk has just ended."""
        self.prob_BV[row_R] = self.prior.probabilities(logits_RV).to(self.prob_BV.dtype)

    def log_probs(self, tail_BW: Tensor) -> Tensor:
        """The prior of what follows each row's newest bytes, of which a token has at most W: [B, K2]."""
        W = tail_BW.shape[1]
        nodes = [self.prior.vocabulary.node(bytes(tail_W[W - since :])) if since <= W else None
                 for since, tail_W in zip(self.since_B.tolist(), tail_BW.tolist(), strict=True)]
        return self.prior.log_probs(self.prob_BV, [[node] for node in nodes])
