"""Prose, a column of real text: which of four passages goes on a document, chance 1/4; after HellaSwag's idea.

The documents are the held-out documentation strings of the installed packages (`corpus.py`, pydocs), one item each. A
document's first words are the context; the right choice is how it goes on, the wrong ones go on other documents from
a place of their own. All four begin and end with a word and have the same number of bytes, so neither length nor a
torn word gives the answer away, and white space is collapsed, so neither does the width of lines.

Boilerplate is shared between documents: an item whose context and right choice stand together in a training document
is left out.
"""

from functools import cache
from random import Random

from dbyte.tasks.column import Column
from dbyte.text.corpus import load_corpus

NAME = "Prose"
CORPUS = "pydocs"
CONTEXT_BYTES = 96  # at least; up to the end of the word
CHOICE_BYTES = range(40, 64)
WRONG = 3


def column() -> Column:
    """The column, of as many items as there are documents that can be used."""
    items = _pool()
    return Column(
        name=NAME, metric="acc", chance=1 / (1 + WRONG), default=len(items), available=len(items), draw=_draw,
        harness={
            "output_type": "multiple_choice",
            "doc_to_text": "{{context}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "label",
        },
    )


def _draw(rng: Random, n: int) -> list[dict]:
    documents = heldout()
    rows = []
    for context, right in rng.sample(_pool(), len(_pool()))[:n]:
        wrong: list[str] = []
        while len(wrong) < WRONG:
            other = rng.choice(documents)
            passage = rng.choice(passages(other, len(right)) or [right])
            if not other.startswith(context) and passage not in (right, *wrong):
                wrong.append(passage)
        choices = [right, *wrong]
        rng.shuffle(choices)
        rows.append({"context": context, "choices": choices, "label": choices.index(right)})
    return rows


@cache
def heldout() -> tuple[str, ...]:
    """The held-out documents of plain ASCII, white space collapsed: there a character is a byte."""
    return _collapsed("heldout")


@cache
def _pool() -> tuple[tuple[str, str], ...]:
    """(context, right choice) of every document that goes on for long enough and was not trained on."""
    trained = "\n".join(_collapsed("train"))
    pairs = []
    for text in heldout():
        start = text.find(" ", CONTEXT_BYTES)
        end = text.find(" ", start + CHOICE_BYTES.start)
        if 0 < start < end and end - start - 1 in CHOICE_BYTES and text[:end] not in trained:
            pairs.append((text[:start], text[start + 1 : end]))
    return tuple(pairs)


def passages(text: str, size: int) -> list[str]:
    """All passages of `size` characters that begin and end with a word, behind the first CONTEXT_BYTES."""
    starts = (i + 1 for i in range(CONTEXT_BYTES, len(text) - size) if text[i] == " ")
    return [text[i : i + size] for i in starts if text[i + size - 1] != " " and text[i + size : i + size + 1] == " "]


def _collapsed(split: str) -> tuple[str, ...]:
    texts = (" ".join(text.split()) for text in load_corpus(CORPUS, split=split).documents)
    return tuple(dict.fromkeys(text for text in texts if text.isascii()))
