"""A tighter bound than the joint score: the sum over several ways to cut the text (DESIGN section 8).

Under the joint head the probability of a text is a sum over all its flags, and the joint score is the one term that the
router picks. A beam adds more terms: a path is a choice of flags, each round flips one flag of the paths scored so far
where that costs least, and scores the `width` likeliest new paths whole, along their own chunks. All of them are
different ways to write the same bytes, so their sum is at least the joint score and at most the probability.

Free are the flags from the context's last byte (which the router set with the continuation in sight) to the byte before
the text's last; the last byte's flag changes nothing that is scored, so both of its values count in every path. The
context's other flags are the router's: what is bounded is the probability of the continuation behind the context as it
was cut. Every path that was scored counts, so a wider beam or more rounds never loosen the bound.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dbyte.evaluate.scoring import Request, Scorer

ROUNDS = 2
Path = tuple[bool, ...]  # the free flags of a request, in order


@dataclass
class Found:
    """A path that was scored: log of its probability, and what flipping each of its flags would change at that byte."""

    nats: float
    gains: list[float]


def beam_scores(scorer: Scorer, requests: Sequence[Request], *, width: int, rounds: int = ROUNDS) -> list[float]:
    """The log of the summed probabilities of at most 1 + rounds * width paths for each request, in nats.

    ValueError for a width or number of rounds below 1, or a scorer of Stage 1, whose score has no flags.
    """
    if scorer.stage != 2 or width < 1 or rounds < 1:
        raise ValueError(f"a beam over flags takes Stage 2, a width and rounds of at least 1; found Stage "
                         f"{scorer.stage}, width {width}, rounds {rounds}")
    router_paths = _router_paths(scorer, requests)
    found: list[dict[Path, Found]] = [{} for _ in requests]
    fresh = [(place, path) for place, path in enumerate(router_paths)]
    for round_ in range(rounds + 1):
        for (place, path), result in zip(fresh, _scored(scorer, requests, fresh), strict=True):
            found[place][path] = result
        if round_ < rounds:
            fresh = [(place, path) for place, paths in enumerate(found) for path in _likeliest_new(paths, width)]
    return [_log_sum([result.nats for result in paths.values()]) for paths in found]


def _free(request: Request) -> range:
    """The bytes of the text whose flags are free."""
    return range(max(request.start - 1, 0), len(request.text) - 1)


def _router_paths(scorer: Scorer, requests: Sequence[Request]) -> list[Path]:
    paths: list[Path] = [()] * len(requests)
    for places in scorer.batches(requests):
        _, flag_BL, _ = scorer.flag_laws([requests[place] for place in places])
        for row, place in enumerate(places):
            paths[place] = tuple(flag_BL[row, list(_free(requests[place]))].tolist())
    return paths


def _scored(scorer: Scorer, requests: Sequence[Request], fresh: list[tuple[int, Path]]) -> list[Found]:
    """Score each (number of the request, path) along its own chunks."""
    results: list[Found | None] = [None] * len(fresh)
    for places in scorer.batches([requests[number] for number, _ in fresh]):
        batch = [requests[fresh[place][0]] for place in places]
        given = [dict(zip(_free(request), fresh[place][1], strict=True))
                 for request, place in zip(batch, places, strict=True)]
        both_BL2, flag_BL, _ = scorer.flag_laws(batch, given)
        for row, (place, request) in enumerate(zip(places, batch, strict=True)):
            results[place] = _path_score(both_BL2[row].cpu(), flag_BL[row].cpu(), request)
    return results


def _path_score(both_L2: torch.Tensor, flag_L: torch.Tensor, request: Request) -> Found:
    joint_L = both_L2.gather(1, flag_L[:, None].long())[:, 0]
    folded_L = both_L2.logsumexp(-1)
    last = len(request.text) - 1
    nats = joint_L[request.start : last].sum() + folded_L[last]
    if request.start:  # the context's last byte is given, its flag is not
        nats = nats + joint_L[request.start - 1] - folded_L[request.start - 1]
    other_L = both_L2.gather(1, (~flag_L)[:, None].long())[:, 0]
    return Found(nats.item(), (other_L - joint_L)[list(_free(request))].tolist())


def _likeliest_new(paths: dict[Path, Found], width: int) -> list[Path]:
    """The likeliest paths one flip away from those scored, judged by the law at the flipped byte alone."""
    guesses: dict[Path, float] = {}
    for path, result in paths.items():
        for place, gain in enumerate(result.gains):
            flipped = (*path[:place], not path[place], *path[place + 1 :])
            if flipped not in paths:
                guesses[flipped] = max(guesses.get(flipped, -math.inf), result.nats + gain)
    return sorted(guesses, key=guesses.get, reverse=True)[:width]


def _log_sum(nats: list[float]) -> float:
    return torch.tensor(nats, dtype=torch.float64).logsumexp(0).item()
