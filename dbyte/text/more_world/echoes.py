"""Echoes: words that mean nothing together, and the same words again.

"Riga, Tom, red, bag, Oslo, ring. Again: Riga, Tom, red, bag, Oslo, ring." Only looking back tells what comes next.
"""

from collections.abc import Sequence
from random import Random

from dbyte.text.more_world.chains import CONTAINERS
from dbyte.text.world import ATTRIBUTES, COLOURS, NAMES, PLACES, THINGS

WORDS = (*NAMES, *PLACES, *THINGS, *COLOURS, *CONTAINERS, *ATTRIBUTES[0].values)


def paragraph(rng: Random, cast: Sequence[str]) -> str:
    """Six to ten words of any sort, twice."""
    words = ", ".join(rng.sample(WORDS, rng.randint(6, 10)))
    return f"{words}. Again: {words}."
