"""The corpora of the built-in world by name, and the whole world: the paragraphs of all its modules.

The corpus `world_full` teaches all columns of MiniBench. The corpus `world` has only the paragraphs of `world.py`, so
that models trained on it stay what they are. The corpora `echoes` and `lookups` are for a model that should learn to
look back before it reads the rest: pairs of words said again, then lists of letters with them.
"""

from collections.abc import Callable, Iterator, Mapping
from random import Random

from dbyte.tasks.world import chains, echoes, kinds, letters, reasons, scripts, spelling, world

NAME = "world_full"
PARAGRAPHS = world.PARAGRAPHS | {
    "scripts": 1, "chains": 6, "reasons": 6, "kinds": 3, "kind_questions": 2, "letter_lists": 6, "letter_questions": 14,
    "spelling": 4, "echoes": 3}
WRITERS = dict(world.WRITERS) | {
    "scripts": scripts.paragraph, "chains": chains.paragraph, "reasons": reasons.paragraph, "kinds": kinds.paragraph,
    "kind_questions": kinds.question_paragraph, "letter_lists": letters.list_paragraph,
    "letter_questions": letters.question_paragraph, "spelling": spelling.paragraph,
    "echoes": echoes.paragraph}

LOOKUPS = {"echoes": 2, "again": 4, "asks": 4, "letter_lists": 3, "letter_questions": 1}
LOOKUP_WRITERS = WRITERS | {"again": letters.again_paragraph, "asks": letters.ask_paragraph}


def full_world_documents(*, seed: int, max_bytes: int) -> Iterator[str]:
    """Training documents of the whole world, at most `max_bytes` bytes; none holds what evaluation asks for."""
    return world.documents(Random(f"full world documents {seed}"), PARAGRAPHS, WRITERS, max_bytes=max_bytes)


def lookup_documents(*, seed: int, max_bytes: int) -> Iterator[str]:
    """Training documents of lists and pairs to look up, at most `max_bytes` UTF-8 bytes; the seed decides them."""
    return world.documents(Random(f"lookup documents {seed}"), LOOKUPS, LOOKUP_WRITERS, max_bytes=max_bytes)


WORLDS: Mapping[str, Callable[..., Iterator[str]]] = {  # corpus name -> documents(seed=, max_bytes=)
    "world": world.world_documents, NAME: full_world_documents, "echoes": echoes.echo_documents,
    "lookups": lookup_documents}
