"""Drawing symbols: temperature, top-k, top-p, and random numbers that depend on a row and not on its batch.

A row's numbers come from a generator of its own, seeded by (seed, prompt, number of the repeat). So a row
is drawn as it would be alone, and equal prompts get different draws. For JBP the distribution is over the 512 joint
symbols. There top-k and top-p count (byte, flag) pairs: a byte that is likely with either flag counts twice.

Shape letters: R rows that draw, X symbols.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How symbols are drawn; raises ValueError where a value leaves its range.

    temperature: 0 takes the likeliest symbol, whatever the other values are. top_k >= 1: only the k likeliest (and
    those that tie with the last of them); None: all. top_p in (0, 1]: of these the likeliest whose sum reaches it.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be a number >= 0 (0: the likeliest symbol), found {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, found {self.top_k}: leave it out (None) to draw from all")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], found {self.top_p}: 1 draws from all symbols")


def probabilities(logits_RX: Tensor, sampling: Sampling) -> Tensor:
    """The probabilities [R, X] that are drawn from, fp64, not normalised; temperature > 0."""
    scaled_RX = logits_RX.double() / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scaled_RX.shape[-1]:
        last_R1 = scaled_RX.topk(sampling.top_k).values[:, -1:]
        scaled_RX = scaled_RX.masked_fill(scaled_RX < last_R1, float("-inf"))
    prob_RX = scaled_RX.softmax(-1)
    if sampling.top_p < 1:
        ordered_RX, order_RX = prob_RX.sort(descending=True, stable=True)
        beyond_RX = ordered_RX.cumsum(-1) - ordered_RX >= sampling.top_p
        prob_RX = prob_RX.masked_fill(torch.zeros_like(beyond_RX).scatter(1, order_RX, beyond_RX), 0.0)
    return prob_RX


def equal_before(asked: Sequence[Hashable]) -> list[int]:
    """For each element, how many equal ones come before it: the number of the repeat of a row's prompt."""
    seen = Counter()
    before = []
    for one in asked:
        before.append(seen[one])
        seen[one] += 1
    return before


class Sampler:
    """Draws for rows that are known by their number; `drawn` counts what each has drawn."""

    def __init__(
        self, sampling: Sampling, prompts: Sequence[bytes], *, repeats: Sequence[int] | None = None,
        drawn: Sequence[int] | None = None,
    ):
        """repeats: for each row, the number of the repeat of its prompt; None: see `equal_before`.

        drawn: how many draws of each row to skip; None: begin with the first.
        """
        self.sampling = sampling
        self.repeats = equal_before(prompts) if repeats is None else list(repeats)
        self.drawn = list(drawn or [0] * len(prompts))
        self.generators = []
        for prompt, repeat, skipped in zip(prompts, self.repeats, self.drawn, strict=True):
            digest = hashlib.sha256(f"{sampling.seed} {repeat} ".encode() + prompt).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
            torch.rand(skipped, generator=generator, dtype=torch.double)
            self.generators.append(generator)

    def draw(self, logits_RX: Tensor, rows: Sequence[int]) -> Tensor:
        """One symbol (int64 [R]) for each of these rows, which are numbers of prompts."""
        if self.sampling.temperature == 0:
            return logits_RX.argmax(-1)
        uniform_R1 = torch.tensor([[self._uniform(row)] for row in rows], dtype=torch.double, device=logits_RX.device)
        mass_RX = probabilities(logits_RX, self.sampling).cumsum(-1)
        # in the order of symbols, not of probabilities: symbols that nearly tie may not change places
        below_R1 = torch.nextafter(mass_RX[:, -1:], torch.zeros_like(uniform_R1))
        return torch.searchsorted(mass_RX, torch.minimum(uniform_R1 * mass_RX[:, -1:], below_R1), right=True)[:, 0]

    def _uniform(self, row: int) -> float:
        """The row's next number in [0, 1)."""
        self.drawn[row] += 1
        return torch.rand(1, generator=self.generators[row], dtype=torch.double).item()
