"""Echoes: pairs of words that mean nothing together, said three times in changing order.

" purple bell Boston fish map baker", then " Boston fish map baker purple bell". Only who looks back at what stood
behind a word knows what comes next. A model that has learned nothing else learns this within some megabytes, and every
lookup that the columns ask for is learned on top of it far sooner; among other text it hardly ever is (docs/log.md).
"""

from collections.abc import Iterator, Sequence
from random import Random

from dbyte.tasks.world import world
from dbyte.tasks.world.world import ATTRIBUTES, COLOURS, NAMES, PLACES, THINGS

WORDS = tuple(sorted({*NAMES, *PLACES, *THINGS, *COLOURS, *(value for each in ATTRIBUTES for value in each.values)}))
PAIRS, TIMES = 6, 3


def paragraph(rng: Random, cast: Sequence[str]) -> str:
    """PAIRS pairs of words, TIMES times, a line each time; no commas, which would stand where words are looked up."""
    words = rng.sample(WORDS, 2 * PAIRS)
    pairs = list(zip(words[::2], words[1::2], strict=True))
    return "\n".join("".join(f" {a} {b}" for a, b in rng.sample(pairs, PAIRS)) for _ in range(TIMES))


def echo_documents(*, seed: int, max_bytes: int) -> Iterator[str]:
    """Training documents of echoes alone, as `world_documents`."""
    return world.documents(Random(f"echoes {seed}"), {"echoes": 1}, {"echoes": paragraph}, max_bytes=max_bytes)
