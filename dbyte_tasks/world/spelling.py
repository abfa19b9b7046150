"""Spelling: what can be asked about the letters of made-up words, after CUTE (arXiv 2409.15452).

"Question: Spell the word bimolu. / Answer: b i m o l u", and six more of CUTE's kinds: those that need no dictionary.
Words are made of syllables of two letters, so there are more than a model ever reads. A hash decides whether a word is
held out, from the questions of every kind and from their answers. A model of tokens must know the letters of its
tokens; a model of bytes sees them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from dbyte_tasks.world.world import WORLD, question_answer

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class QuestionKind:
    """One of CUTE's kinds: its name, the question about {word} and letters {a} and {b}, and how it is answered.

    a is a letter of the word; b is a letter that the word lacks, or with `both` another that it has. chance: how often
    guessing is right.
    """

    name: str
    question: str
    answer: Callable[[str, str, str], str]
    both: bool = False
    chance: float = 0.0


SPELL = QuestionKind("spell", "Spell the word {word}.", lambda word, a, b: " ".join(word))
KINDS = (
    SPELL,
    QuestionKind("spell_inverse", "Which word is spelt {spelt}?", lambda word, a, b: word),
    QuestionKind("contains_char", "Is there a letter {a} in {word}?", lambda word, a, b: "Yes" if a in word else "No",
                 chance=0.5),
    QuestionKind("ins_char", "Put {b} behind every {a} in {word}.", lambda word, a, b: word.replace(a, a + b)),
    QuestionKind("del_char", "Leave out every {a} in {word}.", lambda word, a, b: word.replace(a, "")),
    QuestionKind("sub_char", "Replace every {a} by {b} in {word}.", lambda word, a, b: word.replace(a, b)),
    QuestionKind("swap_char", "Exchange {a} and {b} in {word}.",
                 lambda word, a, b: word.translate(str.maketrans(a + b, b + a)), both=True),
)


def word(rng: Random, *, held_out: bool) -> str:
    """A word of two to four syllables, held out or not, as `held_out` says."""
    while True:
        made = "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 4)))
        if WORLD.held_out("spelling", made) is held_out:
            return made


def asked(rng: Random, kind: QuestionKind, *, held_out: bool) -> tuple[str, str]:
    """A question of this kind about a word that is held out or not, and its answer.

    If the word is not held out, the answer is no held-out word either; this is checked for every kind.
    """
    while True:
        made = word(rng, held_out=held_out)
        inside = sorted(set(made))
        outside = [letter for letter in CONSONANTS + VOWELS if letter not in inside]
        a, other = rng.sample(inside, 2)
        b = other if kind.both else rng.choice(outside)
        if kind.name == "contains_char" and rng.random() < 0.5:
            a = b
        answer = kind.answer(made, a, b)
        if held_out or not WORLD.held_out("spelling", answer):
            return kind.question.format(word=made, spelt=" ".join(made), a=a, b=b), answer


def paragraph(rng: Random, cast: Sequence[str]) -> str:
    """Three questions about the letters of words, with their answers; about half of them ask for the spelling."""
    kinds = [SPELL if rng.random() < 0.5 else rng.choice(KINDS[1:]) for _ in range(3)]
    return "\n\n".join(question_answer(*asked(rng, kind, held_out=False)) for kind in kinds)
