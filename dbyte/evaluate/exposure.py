"""What a decoder does that training never showed it: it sets its own boundaries, and it starts inside a word.

Exposure: how far a decoder's own boundaries deviate from the router's, and whether the deviation grows with the text.
In training the boundaries are the router's, which sees the next byte. A decoder has to guess them: JBP by its flag, MBP
by its look-ahead. Each is compared with what the router says of the same bytes once all are known, after one prompt:
- "given": the bytes are those of held-out text, so only the boundaries are the decoder's own
- "written": the bytes are the decoder's own too, drawn at temperature 1; what differs from "given" is exposure
Bytes count by their distance from the prompt's end, in bins. Bytes whose boundary the format fixes do not count.

Words: each document is split at every byte inside a word of letters, and what is written greedily after the split is
compared with the rest of that word. A token model reads a prompt that ends inside a token as other tokens; a byte
model should not be affected.

Shape letters: B rows, L bytes.
"""

import re
from collections.abc import Iterable, Sequence

import torch
from lm_eval.models.utils import Collator

from dbyte.decode.engine import Engine
from dbyte.decode.generate import begin, evaluating, generate
from dbyte.decode.sampling import Sampling
from dbyte.evaluate import stats
from dbyte.evaluate.score import Request
from dbyte.evaluate.score_own_boundaries import walk
from dbyte.evaluate.shared_prefix import SharedTexts
from dbyte.evaluate.stats import Columns, Interval
from dbyte.kernels.fast import fast_products
from dbyte.model.student import ByteStudent

BINS = 8


def deviations(
    student: ByteStudent, documents: Iterable[bytes], *, rows: int, prompt_bytes: int, new_bytes: int, seed: int
) -> list[dict]:
    """Deviations by bin, given and written, after the first prompt_bytes of up to `rows` documents that are longer.

    Returns:
        For bytes `first` to `last` after the prompt of `text` "given" or "written": how many flags were `decided`, how
        many `deviating` from the router's, and `squares`, the sum over rows of (deviating - share * decided) squared.
    Raises:
        ValueError: if no document is longer than its prompt.
    """
    texts = [text for text in documents if len(text) > prompt_bytes][:rows]
    if not texts:
        raise ValueError(f"no document is longer than {prompt_bytes} bytes: take shorter prompts")
    requests = [Request(text[: prompt_bytes + new_bytes], prompt_bytes) for text in texts]
    told = [(request.text, one.ended_L) for request, one in zip(requests, walk(student, requests), strict=True)]
    prompts = [text[:prompt_bytes] for text in texts]
    writer = begin(student, prompts, max_new_bytes=new_bytes, sampling=Sampling(1.0, seed=seed), stage=2,
                   valid_utf8=False)
    with evaluating(student):
        writer.run()
    wrote = [(prompt + bytes(new[: len(ended)]), ended)
             for prompt, new, ended in zip(prompts, writer.written, writer.ended, strict=True)]
    return [one for text, rows_of in (("given", told), ("written", wrote))
            for one in _binned(text, _wrong(student, rows_of, prompt_bytes), new_bytes)]


@torch.inference_mode()
def _wrong(student: ByteStudent, rows: Sequence[tuple[bytes, Sequence[bool]]], start: int) -> list[list[bool]]:
    """For each row, and each byte from `start` but the last, whose next byte is not known: does its flag deviate?"""
    with fast_products():
        routed_BL = SharedTexts([text for text, _ in rows], engine=Engine(student)).flags()
    return [[flag != routed for flag, routed in zip(ended[:-1], routed_L[1 + start :].tolist(), strict=False)]
            for (_, ended), routed_L in zip(rows, routed_BL, strict=True)]


def _binned(text: str, wrong: list[list[bool]], new_bytes: int) -> list[dict]:
    size = -(-new_bytes // BINS)
    found = []
    for first in range(0, new_bytes, size):
        parts = [row[first : first + size] for row in wrong]
        decided = sum(map(len, parts))
        deviating = sum(map(sum, parts))
        if decided:
            squares = sum((sum(part) - deviating / decided * len(part)) ** 2 for part in parts)
            found.append({"text": text, "first": first, "last": first + size - 1, "decided": decided,
                          "deviating": deviating, "squares": squares})
    return found


def deviation_rows(model: str, corpus: str, found: list[dict]) -> list[dict]:
    """Deviations from the router's boundaries as tidy rows, in percent of the bytes first..last after their prompts.

    A bin is a ratio of sums over independent rows, with the error of one.
    """
    return [{"model": model, "corpus": corpus, "text": one["text"], "first": one["first"],
             "value": 100 * (one["deviating"] / one["decided"]), "stderr": 100 * (one["squares"]**0.5 / one["decided"]),
             "n": one["decided"], "last": one["last"], "deviating": one["deviating"]} for one in found]


def claim_rows(one: Columns, other: Columns, *, generated: str) -> list[dict]:
    """Tidy rows of one - other by column, in points: what, value, stderr, n, low, high, and the verdict on "above 0".

    The last row holds the column `generated` against the mean of the others: what is lost there and not elsewhere.
    """
    found = {name: stats.difference(stats.of_task(one, name), stats.of_task(other, name)) for name in one}
    sizes = {name: len(answers) for name, answers in one.items()}
    # (a - b) - (c - d) = (a + d) - (c + b): items of different columns are independent, so the variances add up
    ahead = found[generated]
    rest = stats.difference(*({name: side[name] for name in one if name != generated} for side in (one, other)))
    half = (((ahead.high - ahead.low) / 2) ** 2 + ((rest.high - rest.low) / 2) ** 2) ** 0.5
    gap = ahead.value - rest.value
    beyond = f"{generated} beyond the others"
    found[beyond] = Interval(gap, gap - half, gap + half)
    sizes[beyond] = stats.items_in(one)
    clusters = {name: stats.clusters_in(stats.of_task(one, name)) for name in one} | {beyond: stats.clusters_in(one)}
    return [{"what": what} | stats.interval_row(interval, sizes[what]) | {"clusters": clusters[what]}
            | {"verdict": stats.verdict(interval.low, interval.high)} for what, interval in found.items()]


# -- prompts that end inside a word ------------------------------------------------------------------------------------


def word_splits(text: bytes) -> list[tuple[bytes, bytes]]:
    """(the text so far, the rest of the word) for each byte inside a word of ASCII letters."""
    return [(text[:split], text[split : word.end()]) for word in re.finditer(rb"[A-Za-z]+", text)
            for split in range(word.start() + 1, word.end())]


def finished(student: ByteStudent, documents: Iterable[bytes], *, stage: int, rows: int = 64) -> list[int]:
    """1 where the rest of the word was written, 0 where not, in the order of documents and places."""
    splits = Collator([split for text in documents for split in word_splits(text)],
                      sort_fn=lambda split: (len(split[1]), len(split[0])))
    right = []
    for batch in splits.get_batched(n=rows):
        prompts, rests = zip(*batch, strict=True)
        texts = generate(student, prompts, max_new_bytes=max(map(len, rests)), stage=stage, as_bytes=True)
        right += [int(text.startswith(rest)) for text, rest in zip(texts, rests, strict=True)]
    return splits.get_original(right)


def finished_row(model: str, corpus: str, right: list[int]) -> dict:
    """The share of words finished as a tidy row, in percent."""
    share = stats.proportion(right)
    return {"model": model, "corpus": corpus, "value": 100 * share.value, "stderr": 100 * share.stderr, "n": share.n}
