"""Where a student loses what its goals ask for: at the router's boundaries in Stage 1, within tokens in Stage 2.

Bits per byte on held-out text in parts that add up: by how the router's chunks meet the tokenizer's tokens, and by how
many bytes of its chunk are before a byte.

Shape letters: P pieces of text, K kinds of spans or places in a token.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dbyte.byte_probabilities import within_token
from dbyte.byte_probabilities.teacher_lm import ByteTeacher
from dbyte.evaluate.bits import heldout_pieces, text_of, token_ends
from dbyte.evaluate.score import Request, Scorer, flag_log_probs, scored_places
from dbyte.evaluate.stats import ratio_of_sums
from dbyte.model.student import BYTES, ByteStudent
from dbyte.model.teacher import load_tokenizer
from dbyte.text.packing import Document
from dbyte.text.spans import TokenBytes

SAME, SPLIT, MERGED, OTHER = "same token", "token cut in several", "tokens in one chunk", "cut elsewhere"
SPANS = (SAME, SPLIT, MERGED, OTHER)
PLACES = ("first byte", "second byte", "third byte", "later bytes")


def pieces_of(folder: Path, texts: Sequence[str], *, row_bytes: int) -> list[Document]:
    """Held-out documents in pieces, as for bits per byte; folder: of a teacher or student, for its tokenizer."""
    return heldout_pieces(list(texts), TokenBytes.from_tokenizer(load_tokenizer(folder)), row_bytes=row_bytes)


@torch.inference_mode()
def span_rows(folder: Path, texts: Sequence[str], *, row_bytes: int) -> list[dict]:
    """What the router's boundaries cost a student of Stage 1, by how they meet the tokenizer's; tidy rows.

    Spans lie between bytes that end a token on both sides. The cost of a kind is the student's bits along the router's
    boundaries less those along the tokenizer's, over the bytes of all text; the kinds add up to the difference of bits
    per byte. That of the same token is what boundaries before it have done.

    Returns:
        rows with kind, value and stderr (bits per byte, over pieces), n (spans), share (% of spans).
    """
    pieces = pieces_of(folder, texts, row_bytes=row_bytes)
    scorer = Scorer(ByteStudent.from_pretrained(folder), stage=1)
    given, own = (scorer.token_nats([Request(text_of(piece), 0, token_ends(piece) if along else None)
                                     for piece in pieces]) for along in (True, False))
    cost_PK = np.zeros((len(pieces), len(SPANS)))
    count_K = np.zeros(len(SPANS), dtype=int)
    for cost_K, sides in zip(cost_PK, zip(given, own, strict=True), strict=True):
        for kind, nats in spans(*sides):
            cost_K[kind] += nats / math.log(2)
            count_K[kind] += 1
    return [row | {"share": 100 * row["n"] / count_K.sum()} for row in _rows("kind", SPANS, cost_PK, pieces, count_K)]


def spans(given: tuple[list[int], list[float]], own: tuple[list[int], list[float]]) -> list[tuple[int, float]]:
    """The spans of a text between common ends: their kind (0..3) and by how many nats `own` is less likely.

    given, own: where the tokens of either side end, ascending, with the same last end, and log P of each.
    """
    found = []
    at = [0, 0]
    for end in sorted({*given[0]} & {*own[0]}):
        after = [side[0].index(end) + 1 for side in (given, own)]
        tokens, chunks = (stop - start for start, stop in zip(at, after, strict=True))
        told, ours = (sum(side[1][start:stop]) for side, start, stop in zip((given, own), at, after, strict=True))
        kind = {(True, True): 0, (True, False): 1, (False, True): 2}.get((tokens == 1, chunks == 1), 3)
        found.append((kind, told - ours))
        at = after
    return found


@torch.inference_mode()
def student_place_rows(folder: Path, texts: Sequence[str], *, row_bytes: int) -> list[dict]:
    """Bits of Stage 2 by the place of a byte in its chunk, flags included; the places add up to its bits per byte."""
    pieces = pieces_of(folder, texts, row_bytes=row_bytes)
    scorer = Scorer(ByteStudent.from_pretrained(folder), stage=2)
    bits_PK = np.zeros((len(pieces), len(PLACES)))
    for start in range(0, len(pieces), 8):
        batch = [Request(text_of(piece), 0) for piece in pieces[start : start + 8]]
        texts_here = scorer.read(batch)
        flag_NL = texts_here.flags()
        asked_NL, _ = scored_places(texts_here, batch)
        both_NL2, _ = flag_log_probs(texts_here, np.arange(len(batch)), flag_NL, asked_NL)
        joint_NL = np.where(flag_NL, both_NL2[..., 1], both_NL2[..., 0])
        for row, (flag_L, asked_L) in enumerate(zip(flag_NL, asked_NL, strict=True)):
            _add(bits_PK[start + row], _places(flag_L)[asked_L], joint_NL[row][asked_L])
    return _rows("place", PLACES, bits_PK, pieces)


@torch.inference_mode()
def teacher_place_rows(folder: Path, texts: Sequence[str], *, row_bytes: int) -> list[dict]:
    """Bits of a teacher by the place of a byte in its token, exactly: a byte and whether its token ends.

    By `within_token.py`; the places add up to the teacher's bits per byte.
    """
    pieces = pieces_of(folder, texts, row_bytes=row_bytes)
    teacher = ByteTeacher.from_pretrained(folder)
    bits_PK = np.zeros((len(pieces), len(PLACES)))
    for bits_K, piece in zip(bits_PK, pieces, strict=True):
        ids = piece.token_ids[: 1 + len(token_ends(piece))].tolist()
        hidden_TE = teacher.model.model(torch.tensor([ids[:-1]])).last_hidden_state[0]
        log_RS = within_token.log_probs(hidden_TE, teacher.sorted_head_VE, ids[1:], teacher.vocabulary)
        symbol_R = within_token.symbols(ids[1:], teacher.vocabulary)
        flag_L = np.array([True, *(symbol_R >= BYTES).tolist()])
        _add(bits_K, _places(flag_L)[1:], log_RS.gather(1, symbol_R[:, None])[:, 0].numpy())
    return _rows("place", PLACES, bits_PK, pieces)


def _places(flag_L: np.ndarray) -> np.ndarray:
    """Of each byte, how many bytes of its chunk are before it, at most 3; BOS is a chunk by itself."""
    last_L = np.maximum.accumulate(np.where(flag_L, np.arange(len(flag_L)), 0))
    before_L = np.concatenate([[0], last_L[:-1]])
    return np.minimum(np.arange(len(flag_L)) - before_L - 1, len(PLACES) - 1).clip(0)


def _add(bits_K: np.ndarray, place_P: np.ndarray, log_P: np.ndarray) -> None:
    """Add the bits of bytes to those of their places."""
    bits_K -= np.bincount(place_P, log_P, minlength=len(bits_K)) / math.log(2)


def _rows(
    key: str, names: Sequence[str], bits_PK: np.ndarray, pieces: Sequence[Document], count_K: np.ndarray | None = None
) -> list[dict]:
    """Tidy rows of bits over the bytes of all pieces, with the error of a ratio of sums; n: counts, None: pieces.

    What was counted nowhere has no row.
    """
    size_P = [len(text_of(piece)) for piece in pieces]
    count_K = np.full(len(names), len(pieces)) if count_K is None else count_K
    found = [ratio_of_sums((bits_P, size_P)) for bits_P in bits_PK.T]
    return [{key: name, "value": one.value, "stderr": one.stderr, "n": int(count)}
            for name, one, count in zip(names, found, count_K, strict=True) if count]
