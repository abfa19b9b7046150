"""Chains: a thing is in a container, the container is in a town; where is the thing?

"The key is in the box. The bag is in Riga. The box is in Bonn. The ring is in the bag." and "Question: Where is the
key?", whose answer takes two of the sentences. A hash decides whether a chain (thing, container, town) is held out:
training text asks no question about a held-out chain, and never has its two sentences together.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from dbyte_tasks.world.world import PLACES, THINGS, WORDS, WORLD, question_answer

CONTAINERS = tuple(WORDS["containers"].split())


class Chain(NamedTuple):
    """A thing in a container in a town."""

    thing: str
    container: str
    town: str

    def held_out(self) -> bool:
        """Whether it is reserved for evaluation."""
        return WORLD.held_out("chain", *self)


def pair(rng: Random, *, held_out: bool) -> tuple[Chain, Chain]:
    """Two chains that share no word; the first is held out if `held_out`, the second is not."""
    while True:
        words = (rng.sample(kind, 2) for kind in (THINGS, CONTAINERS, PLACES))
        first, second = (Chain(*chain) for chain in zip(*words, strict=True))
        if first.held_out() is held_out and not second.held_out():
            return first, second


def told(rng: Random, chains: Sequence[Chain]) -> str:
    """The sentences of the chains in any order."""
    sentences = [f"The {c.thing} is in the {c.container}." for c in chains]
    sentences += [f"The {c.container} is in {c.town}." for c in chains]
    return " ".join(rng.sample(sentences, len(sentences)))


def question(chain: Chain) -> str:
    """Where the thing is."""
    return f"Where is the {chain.thing}?"


def paragraph(rng: Random, cast: Sequence[str]) -> str:
    """Two chains and a question for the town of each thing; three times in four the containers are asked for first."""
    chains = pair(rng, held_out=False)
    asked = []
    if rng.random() < 0.75:
        asked += [(f"Where is the {chain.container}?", chain.town) for chain in rng.sample(chains, 2)]
    asked += [(question(chain), chain.town) for chain in rng.sample(chains, 2)]
    return "\n".join([told(rng, chains), *(question_answer(*ask) for ask in asked)])
