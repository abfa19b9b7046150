"""Echoes: pairs of words that mean nothing together, said three times in changing order.

" purple bell Boston fish map baker", then " Boston fish map baker purple bell". What comes next can only be known by
looking back at what followed the word before. A model that has learned nothing else learns this within a few megabytes,
and then learns the lookups that the columns need far sooner; from other text it hardly ever learns them (docs/log.md).
"""

from collections.abc import Sequence
from random import Random

from dbyte.tasks.world.world import ATTRIBUTES, COLOURS, NAMES, PLACES, THINGS

WORDS = tuple(sorted({*NAMES, *PLACES, *THINGS, *COLOURS, *(value for each in ATTRIBUTES for value in each.values)}))
PAIRS, TIMES = 6, 3


def paragraph(rng: Random, cast: Sequence[str]) -> str:
    """PAIRS pairs of words, TIMES times, a line each time; no commas, which would follow the words to be looked up."""
    words = rng.sample(WORDS, 2 * PAIRS)
    pairs = list(zip(words[::2], words[1::2], strict=True))
    return "\n".join("".join(f" {a} {b}" for a, b in rng.sample(pairs, PAIRS)) for _ in range(TIMES))
