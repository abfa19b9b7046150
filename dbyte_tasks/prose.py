"""Prose, a column of real text: which of four passages continues a document, chance 1/4; after HellaSwag's idea.

The caller gives the documents: those to ask about, and those that a model may have trained on. Each document gives at
most one item. Its first words are the context, the right choice is how it continues, and the wrong choices are passages
of other documents. All four begin and end with a word and have the same number of bytes, so neither length nor a torn
word gives the answer away. White space is collapsed, so the width of lines gives nothing away either.

Documents share boilerplate: an item is left out if its context with its right choice occurs in a training document.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from random import Random

from dbyte_tasks.column import Column
from dbyte_tasks.world.world import shuffled

NAME = "Prose"
CORPUS = "pydocs"  # the corpus whose held-out documents are asked about
CONTEXT_BYTES = 96  # at least; up to the end of the word
CHOICE_BYTES = range(40, 64)
WRONG = 3


def column(heldout: Iterable[str], trained: Iterable[str]) -> Column:
    """The column, with one item for each usable document of `heldout`; `trained` are the training documents."""
    documents = collapsed(heldout)
    pool = _pool(documents, "\n".join(collapsed(trained)))
    return Column(
        name=NAME, metric="acc", chance=1 / (1 + WRONG), default=len(pool), available=len(pool),
        draw=partial(_draw, documents=documents, pool=pool),
        harness={"output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}",
                 "doc_to_target": "label"},
    )


def collapsed(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts of plain ASCII, where a character is a byte, each once, with white space collapsed to one space."""
    words = (" ".join(text.split()) for text in texts)
    return tuple(dict.fromkeys(text for text in words if text.isascii()))


def passages(text: str, size: int) -> list[str]:
    """All passages of `size` characters that begin and end with a word, after the first CONTEXT_BYTES characters."""
    found = []
    for start in range(CONTEXT_BYTES + 1, len(text) - size + 1):
        end = start + size
        if text[start - 1] == " " and text[end - 1] != " " and text[end : end + 1] == " ":
            found.append(text[start:end])
    return found


def _pool(documents: Sequence[str], trained: str) -> list[tuple[str, str]]:
    """(context, right choice) of every document that is long enough and does not begin like a training document."""
    pairs = []
    for text in documents:
        start = text.find(" ", CONTEXT_BYTES)
        end = text.find(" ", start + CHOICE_BYTES.start)
        if 0 < start < end and end - start - 1 in CHOICE_BYTES and text[:end] not in trained:
            pairs.append((text[:start], text[start + 1 : end]))
    return pairs


def _draw(rng: Random, *, documents: Sequence[str], pool: Sequence[tuple[str, str]]) -> Iterator[dict]:
    for context, right in rng.sample(pool, len(pool)):
        wrong: list[str] = []
        while len(wrong) < WRONG:
            other = rng.choice(documents)
            passage = rng.choice(passages(other, len(right)) or [right])
            if not other.startswith(context) and passage not in (right, *wrong):
                wrong.append(passage)
        choices, label = shuffled(rng, right, wrong)
        yield {"context": context, "choices": choices, "label": label}
