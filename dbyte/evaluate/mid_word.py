"""A prompt that ends inside a word: does the student finish the word?

Each document is cut at every byte inside a word of letters, and what is written greedily behind the cut is held to the
rest of that word. A model of tokens cannot take a cut inside a token for what it is; a model of bytes should not mind.
"""

from collections.abc import Iterable

from dbyte.decode.generate import generate
from dbyte.model.student import ByteStudent


def cuts(text: bytes) -> list[tuple[bytes, bytes]]:
    """(what stands before the cut, the rest of the word) for each byte inside a word of ASCII letters."""
    letter = [bytes([byte]).isalpha() for byte in text]
    found = []
    for cut in range(1, len(text)):
        if letter[cut - 1] and letter[cut]:
            end = next((i for i in range(cut, len(text)) if not letter[i]), len(text))
            found.append((text[:cut], text[cut:end]))
    return found


def finished(student: ByteStudent, documents: Iterable[bytes], *, stage: int, rows: int = 64) -> list[int]:
    """1 where the rest of the word was written, 0 where not, in the order of documents and cuts."""
    all_cuts = [cut for text in documents for cut in cuts(text)]
    right = [0] * len(all_cuts)
    order = sorted(range(len(all_cuts)), key=lambda k: (len(all_cuts[k][1]), len(all_cuts[k][0])))
    for first in range(0, len(order), rows):
        places = order[first : first + rows]
        longest = max(len(all_cuts[place][1]) for place in places)
        texts = generate(student, [all_cuts[place][0] for place in places], max_new_bytes=longest, stage=stage,
                         as_bytes=True)
        for place, text in zip(places, texts, strict=True):
            right[place] = int(text.startswith(all_cuts[place][1]))
    return right
