"""Spelling: made-up words with a space between their letters, after CUTE (arXiv 2409.15452).

"Question: Spell the word bimolu. / Answer: b i m o l u". The words are syllables of two letters, so there are more
than anybody sees; a word is held out by a hash. A model of tokens must know its tokens' letters, one of bytes sees
them.
"""

from collections.abc import Sequence
from itertools import islice
from random import Random

from dbyte.text.world import WORLD, question_answer

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


def word(rng: Random, *, held_out: bool) -> str:
    """A word of two to four syllables, held out or not, as asked."""
    while True:
        made = "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 4)))
        if WORLD.held_out("spelling", made) is held_out:
            return made


def question(made: str) -> str:
    """What is asked of a word."""
    return f"Spell the word {made}."


def paragraph(rng: Random, cast: Sequence[str]) -> str:
    """Three words with their spelling."""
    words = islice(iter(lambda: word(rng, held_out=False), None), 3)
    return "\n\n".join(question_answer(question(made), " ".join(made)) for made in words)
