"""Kinds: what is true of a kind is true of its members, whether a text says so or not.

"The robin is a bird. A bird is covered with feathers." is always told; "The robin is covered with feathers." only where
it is not held out. A held-out (member, trait) is neither stated nor asked; it follows from the two sentences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from dbyte_tasks.world.world import WORDS, WORLD, question_answer


@dataclass(frozen=True)
class Kind:
    """A kind, its members, and the value of each of TRAITS for it."""

    name: str
    members: tuple[str, ...]
    values: tuple[str, ...]

    @property
    def with_article(self) -> str:
        """"a bird", "an insect"."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


TRAITS = tuple(WORDS["traits"].items())  # the beginning of a statement, which ends with its value, and a question
KINDS = tuple(Kind(name, tuple(members.split()), tuple(values.split()))
              for name, (members, values) in WORDS["kinds"].items())


FACTS = WORLD.split("kind", [  # (kind, member, number of the trait) by whether it is held out
    ((member, str(trait)), (kind, member, trait))
    for kind in KINDS for member in kind.members for trait in range(len(TRAITS))])


def paragraph(rng: Random, cast: Sequence[str]) -> str:
    """Sentences about one kind: two members, two traits of the kind, and two of members, not held out."""
    kind = rng.choice(KINDS)
    sentences = [f"The {member} is {kind.with_article}." for member in rng.sample(kind.members, 2)]
    for trait in rng.sample(range(len(TRAITS)), 2):
        sentences.append(f"{TRAITS[trait][0].format(m=kind.name)} {kind.values[trait]}.")
    known = [fact for fact in FACTS[False] if fact[0] is kind]
    for _, member, trait in rng.sample(known, 2):
        sentences.append(f"{TRAITS[trait][0].format(m=member)} {kind.values[trait]}.")
    return " ".join(rng.sample(sentences, len(sentences)))


def question_paragraph(rng: Random, cast: Sequence[str]) -> str:
    """Two questions about traits of members, with their answers; none is held out."""
    asked = rng.sample(FACTS[False], 2)
    return "\n\n".join(question_answer(TRAITS[trait][1].format(m=member), kind.values[trait])
                       for kind, member, trait in asked)
