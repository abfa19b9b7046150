"""Reasons: what somebody did to somebody else, and which of the two the reason is about.

"Anna thanked Tom because Tom had helped." but "Anna thanked Tom because Anna felt grateful." Training text tells a
held-out (deed, doer, other) with neither reason.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from dbyte_tasks.world.world import WORDS, WORLD, question_answer


class Deed(NamedTuple):
    """A deed, a reason that is about the doer, and a reason that is about the other."""

    verb: str
    of_doer: str
    of_other: str


DEEDS = tuple(Deed(verb, *reasons) for verb, reasons in WORDS["deeds"].items())


def held_out(deed: Deed, doer: str, other: str) -> bool:
    """Whether the deed of these two is reserved for evaluation."""
    return WORLD.held_out("reason", deed.verb, doer, other)


def beginning(deed: Deed, doer: str, other: str) -> str:
    """The sentence up to the name that the reason is about."""
    return f"{doer} {deed.verb} {other} because"


def paragraph(rng: Random, cast: Sequence[str]) -> str:
    """Two to four deeds among the cast, each with one of its reasons; sometimes two questions about doer or other."""
    told = []
    sentences = []
    for deed in rng.sample(DEEDS, 4):
        doer, other = rng.sample(cast, 2)
        if not held_out(deed, doer, other):
            who, why = rng.choice([(doer, deed.of_doer), (other, deed.of_other)])
            sentences.append(f"{beginning(deed, doer, other)} {who} {why}.")
            told.append((deed, doer, other))
    if len(told) < 2:
        return paragraph(rng, cast)
    lines = [" ".join(sentences)]
    for deed, doer, other in rng.sample(told, 2) if rng.random() < 0.4 else []:
        if rng.random() < 0.5:
            lines.append(question_answer(f"Who {deed.verb} {other}?", doer))
        else:
            lines.append(question_answer(f"{doer} {deed.verb} whom?", other))
    return "\n".join(lines)
