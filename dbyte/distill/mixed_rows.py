"""Rows of a step that are not the corpora's text as it is: options beyond the paper, all off unless a scale says so.

    vocabulary   each token of the teacher as a document of its own: BOS, its bytes, EOS
    noisy        letters are replaced inside tokens; boundaries and tokens stay those of the clean text

The rows of a step are chosen before it trains, in the order of its feed.

Shape letters: R rows, L bytes.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dbyte.distill.loader import Feed, StreamFeed
from dbyte.distill.steps import Step
from dbyte.text.packing import Document, Rows, joined, pack
from dbyte.text.spans import BOS, EOS, TokenBytes

NOISE = 0.1  # of the letters of a noisy row
CASE = 0x20  # the bit in which a letter's cases differ


def mixed_feed(
    feed: Feed | StreamFeed, step: Step, token_bytes: TokenBytes, *, first_row: int = 0
) -> Feed | StreamFeed:
    """The feed of a step with vocabulary rows or noisy rows; of any other step the feed as it is.

    It reads the text from `first_row` on. Of the rows the first `vocabulary` share gives way to vocabulary
    rows, by ascending ids, which are the oftener the lower, and of the others the first `noisy` share is noisy. The new
    feed shuffles them. Raises ValueError for rows that are not in memory.
    """
    if not (step.vocabulary or step.noisy):
        return feed
    if isinstance(feed, StreamFeed):
        raise ValueError(f"step {step.name!r} has vocabulary rows or noisy rows, for which all rows must be in "
                         "memory, and the scale streams its corpora: set streamed = false")
    feed = replace(feed, first_row=first_row, _orders={})
    updates = step.updates(feed.batch_rows * feed.row_bytes)
    numbers = np.concatenate([feed.row_numbers(update) for update in range(updates)])
    of_vocabulary = round(step.vocabulary * len(numbers))
    text = joined([(feed.rows, number) for number in numbers[of_vocabulary:]])
    text = with_noise(text, round(step.noisy * len(text)), seed=feed.seed)
    chosen = [(text, number) for number in range(len(text))]
    if of_vocabulary:
        vocabulary = pack(vocabulary_documents(token_bytes), row_bytes=feed.row_bytes)
        chosen += [(vocabulary, number % len(vocabulary)) for number in range(of_vocabulary)]
    return replace(feed, rows=joined(chosen), first_row=0, _orders={})


def vocabulary_documents(token_bytes: TokenBytes) -> Iterator[Document]:
    """A document for each token that text can have, by its id."""
    for token_id, text in enumerate(token_bytes.token_bytes):
        if text and max(text) < BOS:
            yield Document(np.array([BOS, *text, EOS], dtype=np.uint8),
                           np.array([True, *[False] * (len(text) - 1), True, True]),
                           np.array([token_bytes.bos_token_id, token_id, token_bytes.eos_token_id], dtype=np.int32))


def with_noise(rows: Rows, count: int, *, seed: int) -> Rows:
    """The rows, of which the first `count` have other letters (ASCII alone) in place of NOISE of them.

    Half of these have their other case, half are any small letter. Bytes, boundaries and tokens stay as many.
    """
    rng = np.random.default_rng([seed, len(rows)])
    byte_ids_RL = rows.byte_ids.copy()
    noisy_RL = byte_ids_RL[:count]
    small_RL = noisy_RL | CASE
    hit_RL = (small_RL >= ord("a")) & (small_RL <= ord("z")) & (rng.random(noisy_RL.shape) < NOISE)
    drawn_RL = rng.integers(ord("a"), ord("z") + 1, noisy_RL.shape, dtype=np.uint8)
    other_RL = np.where(rng.random(noisy_RL.shape) < 0.5, noisy_RL ^ CASE, drawn_RL)
    noisy_RL[hit_RL] = other_RL[hit_RL]
    return replace(rows, byte_ids=byte_ids_RL)
