"""A tighter bound than the joint score: the sum over several ways to chunk the text.

Under the joint head the probability of a text is a sum over all its flags, and the joint score is the one term that the
router picks. A beam adds more terms. A path is a choice of flags; each round flips one flag of the paths scored so far
where that costs least, and scores the `width` likeliest new paths completely, along their own chunks. All of them are
different ways to write the same bytes, so their sum is at least the joint score and at most the probability.

Free are the flags from the context's last byte (which the router set knowing the continuation) to the byte before
the text's last. The last byte's flag changes nothing that is scored, so both of its values count in every path. The
context's other flags are the router's: what is bounded is the probability of the continuation given the context as the
router chunked it. Every path that was scored counts, so a wider beam or more rounds never loosen the bound.

Shape letters: N texts, R paths to score, L bytes of the longest text with BOS.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from dbyte.distill.progress import told
from dbyte.evaluate.score import Request, Scorer, batch_by_prefix, flag_log_probs, scored_places, text_bytes
from dbyte.evaluate.shared_prefix import SharedTexts
from dbyte.kernels.fast import fast_products

ROUNDS = 2
Path = tuple[bool, ...]  # the free flags of a request, in order
Paths = dict[Path, tuple[float, list[float]]]  # log-probability, and what flipping each flag would change at that byte


def beam_scores(scorer: Scorer, requests: Sequence[Request], *, width: int) -> list[float]:
    """The log of the summed probabilities of at most 1 + ROUNDS * width paths for each request, in nats.

    scorer: of Stage 2, along the router's boundaries. width: at least 1.
    """
    scores: dict[Request, float] = {}
    batches = batch_by_prefix(requests, batch_bytes=scorer.batch_bytes // width)
    for batch in told(batches, "batches of the beam", text_bytes):
        with fast_products():
            found = _search(scorer.read(batch), batch, width)
        for request, paths in zip(batch, found, strict=True):
            scores[request] = float(np.logaddexp.reduce([nats for nats, _ in paths.values()]))
    return [scores[request] for request in requests]


@torch.inference_mode()
def _search(texts: SharedTexts, batch: Sequence[Request], width: int) -> list[Paths]:
    """All paths that are scored for each request, the router's first."""
    flag_NL = texts.flags()
    found: list[Paths] = [{} for _ in batch]
    fresh = [(row, tuple(flag_NL[row, _free(request)].tolist())) for row, request in enumerate(batch)]
    for _ in range(ROUNDS + 1):
        if fresh:  # else every path was found
            _score(texts, batch, flag_NL, fresh, found)
        fresh = [(row, path) for row, paths in enumerate(found) for path in _likeliest_new(paths, width)]
    return found


def _free(request: Request) -> slice:
    """The places (BOS is 0) whose flags are free."""
    return slice(max(request.start, 1), len(request.text))


def _score(
    texts: SharedTexts, batch: Sequence[Request], flag_NL: np.ndarray, fresh: list[tuple[int, Path]],
    found: list[Paths],
) -> None:
    """Score each (number of the request, path) along its own chunks, and put it into `found`."""
    row_R = np.array([row for row, _ in fresh], dtype=np.int64)
    flag_RL = flag_NL[row_R]
    for flag_L, (row, path) in zip(flag_RL, fresh, strict=True):
        flag_L[_free(batch[row])] = path
    scored_NL, last_NL = scored_places(texts, batch)
    both_RL2, _ = flag_log_probs(texts, row_R, flag_RL, (scored_NL | last_NL)[row_R])
    joint_RL = np.where(flag_RL, both_RL2[..., 1], both_RL2[..., 0])
    other_RL = np.where(flag_RL, both_RL2[..., 0], both_RL2[..., 1])
    folded_RL = np.logaddexp(joint_RL, other_RL)
    for (row, path), joint_L, other_L, folded_L in zip(fresh, joint_RL, other_RL, folded_RL, strict=True):
        request = batch[row]
        last = len(request.text)
        nats = joint_L[request.start + 1 : last].sum() + folded_L[last]
        if request.start:  # the context's last byte is given, its flag is not
            nats += joint_L[request.start] - folded_L[request.start]
        found[row][path] = float(nats), (other_L - joint_L)[_free(request)].tolist()


def _likeliest_new(paths: Paths, width: int) -> list[Path]:
    """The likeliest paths one flip away from those scored, judged by the probabilities at the flipped byte alone."""
    guesses: dict[Path, float] = {}
    for path, (nats, gains) in paths.items():
        for place, gain in enumerate(gains):
            flipped = (*path[:place], not path[place], *path[place + 1 :])
            if flipped not in paths:
                guesses[flipped] = max(guesses.get(flipped, -math.inf), nats + gain)
    return sorted(guesses, key=guesses.get, reverse=True)[:width]
