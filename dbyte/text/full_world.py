"""The whole built-in world: the paragraphs of `world.py` and of `more_world/`, for all columns of MiniBench.

Its corpus is called `world_full`. The corpus `world` has only the former: what was trained on it stays what it is.
"""

from collections.abc import Iterator
from random import Random

from dbyte.text import world
from dbyte.text.more_world import chains, echoes, kinds, letters, reasons, scripts, spelling

NAME = "world_full"
PARAGRAPHS = world.PARAGRAPHS | {
    "scripts": 1, "chains": 6, "reasons": 5, "kinds": 2, "kind_questions": 2, "letter_lists": 4, "letter_questions": 8,
    "spelling": 2, "echoes": 1}
WRITERS = dict(world.WRITERS) | {
    "scripts": scripts.paragraph, "chains": chains.paragraph, "reasons": reasons.paragraph, "kinds": kinds.paragraph,
    "kind_questions": kinds.question_paragraph, "letter_lists": letters.list_paragraph,
    "letter_questions": letters.question_paragraph, "spelling": spelling.paragraph,
    "echoes": echoes.paragraph}


def full_world_documents(*, seed: int, max_bytes: int) -> Iterator[str]:
    """Training documents of the whole world, as `world_documents`: none holds anything that evaluation asks for."""
    return world.documents(Random(f"full world documents {seed}"), PARAGRAPHS, WRITERS, max_bytes=max_bytes)
