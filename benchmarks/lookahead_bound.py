"""How well can a few bytes of look-ahead tell where tokens end? Tables of counts, as a yardstick for the router.

    python benchmarks/lookahead_bound.py [--scale small] [--bytes 20e6] [--learned 3e6]

A token's end depends on its pre-token alone (a word with the blank before it), so it is a guess how a word continues. A
table over (the bytes of the word so far, the next byte) says how often training text ended a token there; where it has
seen few such, it leans on tables over shorter histories. One table serves all corpora of the scale, as one router does.
Held-out F1 says what counting reaches on new text. In-sample F1, where the table is built from the held-out text
itself, is above what any predictor with this view can reach there. BPE looks at complete words, so a merge can depend
on bytes further ahead; the rows with other look-aheads than one byte say how much that is.

--learned trains a router's suffixes alone (`SuffixOdds`), by Eq. 4 on the tokenizer's own labels: no teacher is needed.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer

from dbyte import presets
from dbyte.distill import objectives
from dbyte.distill.data import training_corpora
from dbyte.distill.steps import Group, Step
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.boundaries import Agreement
from dbyte.model.suffix import SuffixOdds, SuffixTable
from dbyte.text.corpus import load_corpus
from dbyte.text.spans import BOS, EOS, TokenBytes

HISTORIES = (1, 2, 3, 5, 8)  # bytes, the table of the word so far comes on top
LONGEST = 40  # bytes of a word that count
PRIOR = 0.3  # counts that a shorter history's say is worth
NO_PRIOR = 1e-9
FACTOR = np.uint64(6364136223846793005)
RATE, MUON_RATE = 1e-3, 0.05
LETTER, DIGIT, BLANK, OTHER = range(4)


class Bytes:
    """Documents end to end, each between BOS and EOS: byte_L, boundary_L, decided_L (what a router decides)."""

    def __init__(self, texts, token_bytes: TokenBytes):
        aligned = token_bytes.align_batch(token_bytes.spelled(list(texts)))
        whole = [np.concatenate([[BOS], each.byte_ids.numpy(), [EOS]]) for each in aligned]
        ends = [np.concatenate([[True], each.boundary.numpy(), [True]]) for each in aligned]
        self.byte_L = np.concatenate(whole).astype(np.uint8)
        self.boundary_L = np.concatenate(ends)
        self.next_L = np.append(self.byte_L[1:], np.uint8(EOS))
        self.decided_L = (self.byte_L < BOS) & (self.next_L < BOS)
        self.kind_L = kinds(self.byte_L)
        self.history = {size: hashes(self.byte_L, np.full(len(self.byte_L), size)) for size in HISTORIES}
        self.history["word"] = hashes(self.byte_L, np.arange(len(self.byte_L)) - word_starts(self) + 1)


def kinds(byte_L: np.ndarray) -> np.ndarray:
    """The class that the pre-tokenizer's pattern sees; E2 begins dashes and quotation marks, C2 signs of Latin-1."""
    table = np.full(256, OTHER)
    for byte in range(256):
        if chr(byte).isascii() and chr(byte).isalpha() or 0xC3 <= byte < BOS and byte != 0xE2:
            table[byte] = LETTER
        elif byte in b"0123456789":
            table[byte] = DIGIT
        elif byte in b" \t\n\r\v\f":
            table[byte] = BLANK
    leads = np.where((byte_L & 0xC0) != 0x80, np.arange(len(byte_L)), 0)
    return table[byte_L[np.maximum.accumulate(leads)]]


def word_starts(text: Bytes) -> np.ndarray:
    """Where the run of one class that holds each byte begins, with a blank before it, or an apostrophe's two bytes."""
    place_L = np.arange(len(text.byte_L))
    new_L = np.append(True, (text.kind_L[1:] != text.kind_L[:-1]) | (text.kind_L[1:] == DIGIT))
    start_L = np.maximum.accumulate(np.where(new_L, place_L, 0))
    before_L = text.byte_L[np.maximum(start_L - 1, 0)]
    start_L = start_L - ((before_L == ord(" ")) & np.isin(text.kind_L, (LETTER, OTHER)))
    return np.maximum(start_L - 2 * ((before_L == ord("'")) & (text.kind_L == LETTER)), 0)


def hashes(byte_L: np.ndarray, size_L: np.ndarray) -> np.ndarray:
    """A hash of the last size_L bytes at each byte: uint64 [L]."""
    size_L = np.minimum(size_L, LONGEST)
    hash_L = size_L.astype(np.uint64)
    power = FACTOR
    for back in range(int(size_L.max())):
        live = np.flatnonzero(size_L > back)
        live = live[live >= back]
        hash_L[live] += (byte_L[live - back].astype(np.uint64) + np.uint64(1)) * power
        power = power * FACTOR
    return hash_L


def mixed(hash_L: np.ndarray, other_L: np.ndarray) -> np.ndarray:
    """A hash of two hashes: uint64, its lowest bit is kept free."""
    hash_L = (hash_L ^ (hash_L >> np.uint64(31)) ^ (other_L * FACTOR)) * FACTOR
    return (hash_L ^ (hash_L >> np.uint64(29))) & ~np.uint64(1)


def look_aheads(text: Bytes, ahead: int) -> np.ndarray:
    """A hash of so many bytes after each byte; those after the first that leaves the word say nothing more."""
    hash_L = np.zeros(len(text.byte_L), dtype=np.uint64)
    live_L = np.ones(len(hash_L), dtype=bool)
    byte_L = text.byte_L
    kind_L = text.kind_L
    for _ in range(ahead):
        next_L = np.append(byte_L[1:], np.uint8(EOS))
        next_kind_L = np.append(kind_L[1:], OTHER)
        hash_L = np.where(live_L, mixed(hash_L, next_L.astype(np.uint64) + np.uint64(2)), hash_L)
        live_L &= ((next_kind_L == kind_L) & (kind_L != DIGIT) | (byte_L == ord(" "))) & (next_L < BOS)
        byte_L = next_L
        kind_L = next_kind_L
    return hash_L


class Table:
    """How often a byte with a key was seen, and how often a token ended there."""

    def __init__(self, key_L: np.ndarray, boundary_L: np.ndarray):
        packed_L = np.sort(key_L | boundary_L.astype(np.uint64))
        key_L = packed_L & ~np.uint64(1)
        first_K = np.flatnonzero(np.append(True, key_L[1:] != key_L[:-1]))
        self.key_K = key_L[first_K]
        self.seen_K = np.diff(np.append(first_K, len(key_L)))
        self.ended_K = np.add.reduceat((packed_L & np.uint64(1)).astype(np.int64), first_K)

    def share(self, key_L: np.ndarray, prior_L: np.ndarray, weight: float) -> np.ndarray:
        """The share of ends at each key, a prior's say worth `weight` counts."""
        place_L = np.searchsorted(self.key_K, key_L).clip(max=len(self.key_K) - 1)
        known_L = self.key_K[place_L] == key_L
        return (self.ended_K[place_L] * known_L + weight * prior_L) / (self.seen_K[place_L] * known_L + weight)


def counted(train: Bytes, held: list[Bytes], ahead: int, histories, prior: float) -> list[np.ndarray]:
    """The probability of a token's end at each byte of held-out texts, by counts of training text.

    histories: keys of `Bytes.history`, the shortest first. prior: how many counts a shorter history's say is worth.
    """
    there_L = look_aheads(train, ahead)
    here = [look_aheads(text, ahead) for text in held]
    probs = [np.full(len(text.byte_L), 0.25) for text in held]
    for history in histories:
        key_L = mixed(train.history[history], there_L)[train.decided_L]
        table = Table(key_L, train.boundary_L[train.decided_L])
        probs = [table.share(mixed(text.history[history], ahead_L), prob_L, prior)
                 for text, ahead_L, prob_L in zip(held, here, probs, strict=True)]
    return probs


class Suffixes(torch.nn.Module):
    """The probability of a token's end before each byte but the first, by suffixes alone."""

    def __init__(self, token_bytes: TokenBytes, width: int):
        super().__init__()
        self.table = SuffixTable(list(token_bytes.token_bytes), bos_token_id=token_bytes.bos_token_id,
                                 eos_token_id=token_bytes.eos_token_id)
        self.odds = SuffixOdds(len(token_bytes), width)

    def forward(self, byte_BL: torch.Tensor) -> torch.Tensor:
        suffix_BL = self.table.find(byte_BL)
        even_BL = torch.full((len(byte_BL), byte_BL.shape[1] - 1), 0.5)
        return self.odds(even_BL, suffix_BL[:, :-1], suffix_BL[:, 1:])


def learned(train: Bytes, token_bytes: TokenBytes, *, width: int, row_bytes: int = 1024, batch_rows: int = 8):
    """Suffixes alone, trained once over the text by Eq. 4 as step 1.3 at scale real trains a router."""
    torch.manual_seed(0)
    model = Suffixes(token_bytes, width)
    step = Step("suffixes", 1, objectives.boundary, (Group(("odds",), RATE, MUON_RATE),), len(train.byte_L), warmup=0.1)
    optimisers = step.optimisers(model)
    count = len(train.byte_L) // row_bytes
    columns = [torch.from_numpy(column[: count * row_bytes].reshape(count, row_bytes).copy())
               for column in (train.byte_L.astype(np.int64), train.boundary_L, train.decided_L)]
    updates = count // batch_rows
    for update, batch in enumerate(torch.randperm(count)[: updates * batch_rows].split(batch_rows)):
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = group["peak"] * step.lr_scale(update, updates)
        byte_BL, boundary_BL, decided_BL = (column[batch] for column in columns)
        chosen_BL = decided_BL[:, :-1]
        loss = F.binary_cross_entropy(model(byte_BL)[chosen_BL], boundary_BL[:, :-1][chosen_BL].float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), step.clip)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
    return model


def agreement(prob_L: np.ndarray, text: Bytes, threshold: float) -> Agreement:
    """Agreement with the tokens of what a threshold decides."""
    guess_L = prob_L[text.decided_L] >= threshold
    true_L = text.boundary_L[text.decided_L]
    return Agreement(int((guess_L & true_L).sum()), int((guess_L & ~true_L).sum()), int((~guess_L & true_L).sum()),
                     len(true_L))


def line(name: str, ahead: int, what: str, prob_L: np.ndarray, text: Bytes) -> None:
    """Print a row of the table: F1 at 0.5, then at the best of the thresholds."""
    plain = agreement(prob_L, text, 0.5)
    best = max((agreement(prob_L, text, threshold) for threshold in np.arange(0.02, 1, 0.02)), key=lambda one: one.f1)
    numbers = " | ".join(f"{100 * number:.2f}" for number in (plain.f1, best.f1, best.precision, best.recall))
    print(f"| {name} | {ahead} | {what} | {numbers} | {best.n:,} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="small")
    parser.add_argument("--bytes", type=float, default=0, help="counted of each corpus (the scale's, if 0)")
    parser.add_argument("--heldout-bytes", type=float, default=0, help="of each corpus (the scale's, if 0)")
    parser.add_argument("--learned", type=float, default=0, help="bytes that suffixes are trained on (none, if 0)")
    parser.add_argument("--width", type=int, default=8, help="of the embeddings of suffixes")
    given = parser.parse_args()
    scale = presets.scale(given.scale)
    token_bytes = TokenBytes.from_tokenizer(AutoTokenizer.from_pretrained(teacher_run(scale, seed=0)))
    held = {name: Bytes(load_corpus(name, split="heldout", seed=0,
                                    max_bytes=int(given.heldout_bytes or scale.heldout_bytes)).documents, token_bytes)
            for name, _ in scale.corpora}
    corpora = training_corpora(scale, seed=0) if not given.bytes else [
        load_corpus(name, seed=0, max_bytes=int(given.bytes)) for name, _ in scale.corpora]
    train = Bytes([text for corpus in corpora for text in corpus.documents], token_bytes)
    print(f"Counted: {len(train.byte_L):,} bytes of training text.\n\n| corpus | bytes ahead | predictor | F1 at 0.5 | "
          "best F1 | precision | recall | bytes |\n|---|---:|---|---:|---:|---:|---:|---:|")
    for ahead in range(4):
        probs = counted(train, list(held.values()), ahead, (*HISTORIES, "word"), PRIOR)
        for (name, text), prob_L in zip(held.items(), probs, strict=True):
            line(name, ahead, "counts, held-out", prob_L, text)
            line(name, ahead, "counts, in-sample", *counted(text, [text], ahead, ("word",), NO_PRIOR), text)
    if given.learned:
        texts = [text for corpus in corpora for text in corpus.documents]
        order = np.random.default_rng(0).permutation(len(texts))
        share = min(given.learned / len(train.byte_L), 1)
        part = Bytes([texts[number] for number in order[: int(share * len(texts))]], token_bytes)
        what = f"suffixes, {len(part.byte_L) / 1e6:.1f} MB"
        odds = learned(part, token_bytes, width=given.width)
        for name, text in held.items():
            with torch.no_grad():
                prob_L = odds(torch.from_numpy(np.append(text.byte_L, EOS).astype(np.int64))[None])[0].numpy()
            line(name, 1, what, prob_L, text)


if __name__ == "__main__":
    main()
