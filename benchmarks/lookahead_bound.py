"""How well can one byte of look-ahead tell where tokens end? A table of counts, as a yardstick for the router.

    python benchmarks/lookahead_bound.py [--scale small]

A table over (the bytes of the word so far, the next byte) predicts the label that was more common in training text, and
backs off to shorter histories; one table serves all corpora of the scale, as one router does. Held-out F1 says what
counting reaches on new text. In-sample F1, where the table is built from the held-out text itself, is above what any
predictor with this view can reach there. BPE looks at complete words, so a merge can depend on bytes further ahead; no
look-ahead of one byte recovers that part.
"""

import argparse
from collections import Counter

from transformers import AutoTokenizer

from dbyte import presets
from dbyte.distill.data import heldout_corpus, training_corpora
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.boundaries import Agreement
from dbyte.text.spans import TokenBytes

HISTORIES = (20, 8, 5, 3, 2)  # bytes, longest first


def kind(byte: int) -> str:
    """The class that the pre-tokenizer's pattern sees: letters, digits, blanks or the rest."""
    if chr(byte).isalpha() or byte >= 128:
        return "letter"
    if chr(byte).isdigit():
        return "digit"
    return "blank" if chr(byte).isspace() else "other"


def views(text: bytes, boundary: list[bool]):
    """Yield (the run of one class so far and the byte before it, next byte, label) for each byte that another follows.

    A pre-token is such a run, with at most one byte of another class before it, and merges never leave a pre-token.
    """
    start = 0
    for i in range(len(text) - 1):
        start = start if i and kind(text[i]) == kind(text[i - 1]) else i
        yield text[max(start - 1, 0) : i + 1], text[i + 1], boundary[i]


def keys(history: bytes, following: int) -> list[tuple]:
    return [(size, history[-size:], following) for size in HISTORIES]


def table(texts, token_bytes: TokenBytes) -> Counter:
    """Votes for a boundary minus votes against, by key."""
    votes: Counter = Counter()
    for aligned in token_bytes.align_batch(texts):
        for history, following, label in views(bytes(aligned.byte_ids.tolist()), aligned.boundary.tolist()):
            for key in keys(history, following):
                votes[key] += 1 if label else -1
    return votes


def agreement(votes: Counter, texts, token_bytes: TokenBytes) -> Agreement:
    """Agreement of the table's boundaries with the tokens'; an unseen byte counts as a boundary."""
    counts = Counter()
    for aligned in token_bytes.align_batch(texts):
        for history, following, label in views(bytes(aligned.byte_ids.tolist()), aligned.boundary.tolist()):
            predicted = next((votes[key] >= 0 for key in keys(history, following) if key in votes), True)
            counts[predicted, label] += 1
    return Agreement(counts[True, True], counts[True, False], counts[False, True], sum(counts.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="small")
    scale = presets.scale(parser.parse_args().scale)
    token_bytes = TokenBytes.from_tokenizer(AutoTokenizer.from_pretrained(teacher_run(scale, seed=0)))
    print("| corpus | F1 held-out, table of training text | F1 in-sample, upper bound | bytes |\n|---|---:|---:|---:|")
    corpora = training_corpora(scale, seed=0)
    held_out = {corpus.name: heldout_corpus(scale, corpus.name, seed=0).documents for corpus in corpora}
    trained = table([text for corpus in corpora for text in corpus.documents], token_bytes)
    fitted = table([text for documents in held_out.values() for text in documents], token_bytes)
    for name, held in held_out.items():
        learned = agreement(trained, held, token_bytes)
        bound = agreement(fitted, held, token_bytes)
        print(f"| {name} | {100 * learned.f1:.2f} | {100 * bound.f1:.2f} | {learned.n:,} |", flush=True)


if __name__ == "__main__":
    main()
