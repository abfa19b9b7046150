"""Bits per byte: nats / (ln 2 * UTF-8 bytes of the text), one definition for token and byte models.

Teacher and student see the same pieces of the same documents, each from BOS; the text's bytes are scored, EOS is not.
A piece is at most `row_bytes` long and ends at a token's end, as in training.

Shape letters: P pieces, B pieces of a batch, M tokens, E teacher width, V vocabulary.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from lm_eval.models.utils import Collator
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from dbyte.distill.progress import told
from dbyte.evaluate.score import Request, Score, Scorer
from dbyte.kernels.fast import fast_products
from dbyte.model.core import run_core
from dbyte.text.packing import Document, cut, document
from dbyte.text.spans import BOS, EOS, TokenBytes


def heldout_pieces(texts: list[str], token_bytes: TokenBytes, *, row_bytes: int) -> list[Document]:
    """The pieces of documents that a row of `row_bytes` can hold; ValueError if there is no text."""
    pieces = [piece for aligned in token_bytes.align_batch(token_bytes.spelled(texts))
              for piece in cut(document(aligned, token_bytes), row_bytes=row_bytes) if text_of(piece)]
    if not pieces:
        raise ValueError("there is no held-out text to measure bits per byte on: give at least one document with text")
    return pieces


def text_of(piece: Document) -> bytes:
    """A piece's bytes without BOS and EOS."""
    return bytes(byte for byte in piece.byte_ids.tolist() if byte not in (BOS, EOS))


def token_ends(piece: Document) -> tuple[int, ...]:
    """Where the tokens of a piece's text end, counted without BOS; EOS left out."""
    ends = np.flatnonzero(piece.boundary & (piece.byte_ids != BOS) & (piece.byte_ids != EOS))
    return tuple(int(end) for end in ends)  # byte i of the piece is byte i - 1 of the text, whose end is i


@torch.no_grad()
def teacher_nats(teacher: PreTrainedModel, pieces: list[Document]) -> list[float]:
    """Negative log-probability of each piece's text under a token model, from BOS, in nats."""
    nats = []
    collator = Collator(pieces, sort_fn=lambda piece: len(piece.token_ids))
    for batch in told(list(collator.get_batched(n=16)), "the teacher's batches of held-out text",
                      lambda batch: sum(len(piece.byte_ids) for piece in batch)):
        tokens = [torch.as_tensor(piece.token_ids[: 1 + len(token_ends(piece))].astype(np.int64)) for piece in batch]
        ids_BM = pad_sequence(tokens, batch_first=True).to(teacher.device)
        document_BM = pad_sequence([torch.zeros_like(ids_M) for ids_M in tokens], batch_first=True, padding_value=-1)
        document_BM = document_BM.to(teacher.device)
        with fast_products():
            hidden_BME = run_core(teacher.model, teacher.get_input_embeddings()(ids_BM), document_BM)
            logits_BMV = teacher.get_output_embeddings()(hidden_BME)[:, :-1].float()
        ce_BM = F.cross_entropy(logits_BMV.transpose(1, 2), ids_BM[:, 1:], reduction="none")
        nats += (ce_BM * (document_BM[:, 1:] >= 0)).sum(1).tolist()
    return collator.get_original(nats)


def student_scores(scorer: Scorer, pieces: list[Document], *, boundaries: str) -> list[Score]:
    """The score of each piece's text under a student, from BOS.

    boundaries: "tokenizer" for the teacher's tokens, else those that the scorer decides (see dbyte.evaluate.score).
    """
    return scorer.score([Request(text_of(piece), 0, token_ends(piece) if boundaries == "tokenizer" else None)
                         for piece in pieces])


def bits_per_byte(nats: list[float], pieces: list[Document]) -> dict:
    """Sum the nats over the bytes: value, stderr over pieces, n (pieces), text_bytes, and nats_P for pairing.

    The error is that of a ratio of sums over independent pieces.
    """
    nats_P = np.asarray(nats)
    bytes_P = np.asarray([len(text_of(piece)) for piece in pieces], dtype=float)
    ratio = nats_P.sum() / bytes_P.sum()
    spread = np.sqrt(((nats_P - ratio * bytes_P) ** 2).sum() / max(len(pieces) - 1, 1) * len(pieces)) / bytes_P.sum()
    return {"value": ratio / math.log(2), "stderr": spread / math.log(2), "n": len(pieces),
            "text_bytes": int(bytes_P.sum()), "nats_P": nats_P.tolist()}
