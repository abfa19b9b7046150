"""The corpora of the built-in world by name, and the whole world: the paragraphs of all its modules.

The corpus `world_full` teaches all columns of MiniBench. The corpus `world` has only the paragraphs of `world.py`, so
that models trained on it stay what they are. The corpora `echoes` and `lookups` are for a model that should learn to
look back before it reads the rest: pairs of words said again, then lists of letters with them. What comes next in an
echo can only be known by looking back at what followed the word before. A model that has learned nothing else learns
this within a few megabytes, and then the lookups that the columns need far sooner; from other text it hardly ever
learns them (docs/log.md).

The corpus `one_person` is the world told of one person alone: no name in it comes as a surprise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from random import Random

from dbyte_tasks.world import chains, kinds, letters, reasons, scripts, spelling
from dbyte_tasks.world import world as w

NAME = "world_full"
ECHOED = tuple(sorted({*w.NAMES, *w.PLACES, *w.THINGS, *w.COLOURS, *(v for each in w.ATTRIBUTES for v in each.values)}))
PAIRS, TIMES = 6, 3


def echoes(rng: Random, cast: Sequence[str]) -> str:
    """PAIRS pairs of words, TIMES times, a line each time; no commas, which would follow the words to be looked up."""
    words = rng.sample(ECHOED, 2 * PAIRS)
    pairs = list(zip(words[::2], words[1::2], strict=True))
    return "\n".join("".join(f" {a} {b}" for a, b in rng.sample(pairs, PAIRS)) for _ in range(TIMES))


FULL = w.PARAGRAPHS | {
    "scripts": 1, "chains": 6, "reasons": 6, "kinds": 3, "kind_questions": 2, "letter_lists": 6, "letter_questions": 14,
    "spelling": 4, "echoes": 3}
LOOKUPS = {"echoes": 2, "again": 4, "asks": 4, "letter_lists": 3, "letter_questions": 1}
EVERY_WRITER = dict(w.WRITERS) | {
    "scripts": scripts.paragraph, "chains": chains.paragraph, "reasons": reasons.paragraph, "kinds": kinds.paragraph,
    "kind_questions": kinds.question_paragraph, "letter_lists": letters.list_paragraph,
    "letter_questions": letters.question_paragraph, "spelling": spelling.paragraph, "echoes": echoes,
    "again": letters.again_paragraph, "asks": letters.ask_paragraph}

ALONE = "one_person"


def of_one_person(writer: w.Writer, rng: Random, cast: Sequence[str]) -> str:
    """A paragraph about the same person as every other."""
    return writer(rng, w.NAMES[:1])


WORLDS: Mapping[str, Callable[..., Iterator[str]]] = {  # corpus name -> documents(seed=, max_bytes=)
    "world": w.world_documents,
    NAME: partial(w.documents, "full world documents", FULL, EVERY_WRITER),
    "echoes": partial(w.documents, "echoes", {"echoes": 1}, EVERY_WRITER),
    "lookups": partial(w.documents, "lookup documents", LOOKUPS, EVERY_WRITER),
    ALONE: partial(w.documents, "documents of one person", {"facts": 5, "sums": 4, "uses": 3, "use_questions": 2},
                   {kind: partial(of_one_person, writer) for kind, writer in w.WRITERS.items()}),
}
