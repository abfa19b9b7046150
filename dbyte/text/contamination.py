"""Training text that holds a benchmark's items: a document that shares 13 words in a row with one is left out.

Words are runs of letters and digits, in lower case, so that neither punctuation nor line ends hide a copy. The
number 13 is that of GPT-3's report (arXiv 2005.14165, appendix C) and of most later ones.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

WORDS_IN_A_ROW = 13
WORD = re.compile(r"\w+")


def runs_of_words(text: str) -> Iterator[int]:
    """The hash of each run of WORDS_IN_A_ROW words of a text; none for a shorter one."""
    words = WORD.findall(text.lower())
    for start in range(len(words) - WORDS_IN_A_ROW + 1):
        yield hash(tuple(words[start : start + WORDS_IN_A_ROW]))


def without_items(documents: Sequence[str], items: Iterable[str], *, name: str) -> tuple[str, ...]:
    """The documents that share no run of words with an item's text; how many do is printed with the corpus's name."""
    known = {run for item in items for run in runs_of_words(item)}
    clean = tuple(text for text in documents if known.isdisjoint(runs_of_words(text)))
    dropped = len(documents) - len(clean)
    print(f"corpus {name}: {dropped} of {len(documents)} documents share {WORDS_IN_A_ROW} words in a row with a "
          "benchmark's item; they are left out", flush=True)
    return clean


def texts_in(row: object) -> Iterator[str]:
    """Every string in a row of a benchmark, however deep."""
    if isinstance(row, str):
        yield row
    elif isinstance(row, dict):
        for value in row.values():
            yield from texts_in(value)
    elif isinstance(row, list | tuple):
        for value in row:
            yield from texts_in(value)
