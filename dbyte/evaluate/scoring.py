"""Log-probabilities of text under a student: what is scored, from where, along which boundaries.

Stage 1 scores tokens: the sum of log P(token) given the core's state at the chunk before. The boundaries are
- "tokenizer": the teacher's own tokens, so a perfect student scores as its teacher does; or
- "router": the student's own cuts, and the context's end. Each chunk must be a token to have a probability: a chunk
  that is none (a cut was missed) is split into the longest tokens from the left, and a cut inside a token leaves two
  shorter tokens, which are scored as such. Tokens fix bytes and cuts alike, so the sum is the exact log-probability of
  one segmentation, and a lower bound of log P(text).
Stage 2 scores the joint: the sum of log p(byte, flag) along the router's boundaries, a lower bound of log P(text). The
router set the flag of the context's last byte with the continuation's first byte in sight, so log p(flag | byte) of
that byte belongs to the continuation's score; without it the scores of all continuations could exceed one together.
Adding up both flags at a byte ("folded") is no probability under a router that has seen the next byte; it is returned
beside the joint score only. `flag_paths.py` adds up several ways to cut the text instead, which tightens the bound.

Shape letters: B rows, L bytes, M chunks, N bytes that are scored, V vocabulary, K2 = 512 joint symbols.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dbyte.decode.stream import pad_bytes
from dbyte.model.chunking import find_chunks
from dbyte.model.router import THRESHOLD
from dbyte.model.student import BYTES, ByteStudent
from dbyte.text.spans import BOS


@dataclass(frozen=True)
class Score:
    """The score of one continuation: nats (log-probability, <= 0), and whether its every symbol is the likeliest.

    At Stage 2 the likeliest joint symbol's byte counts, along the router's flags; generation follows its own flags.

    folded_nats: Stage 2's flag-free sum, beside the score (None for Stage 1).
    beam_nats: the tighter bound of `flag_paths.py`, where it was asked for.
    """

    nats: float
    greedy: bool
    folded_nats: float | None = None
    beam_nats: float | None = None


@dataclass(frozen=True)
class Request:
    """Bytes to score: `text[start:]` given BOS and `text[:start]`.

    token_ends: where the teacher's tokens end in `text` (ascending, the last is len(text)); None: the router cuts.
    """

    text: bytes
    start: int
    token_ends: tuple[int, ...] | None = None

    def __post_init__(self):
        if not 0 <= self.start < len(self.text):
            raise ValueError(f"nothing to score: the continuation of {self.text[-40:]!r} is empty (start {self.start} "
                             f"of {len(self.text)} bytes); give at least one byte after the context")


class Vocabulary:
    """The teacher's tokens by their bytes, for cutting a chunk into tokens."""

    def __init__(self, student: ByteStudent):
        size = len(student.token_offset) - 1
        texts = [student.token_text(token) for token in range(size)]
        self.id_of = {text: token for token, text in reversed(list(enumerate(texts))) if text}
        self.longest = max(map(len, self.id_of))

    def split(self, chunk: bytes) -> list[bytes]:
        """Cut bytes into tokens, the longest first from the left; every single byte of UTF-8 is a token."""
        pieces = []
        while chunk:
            size = next(n for n in range(min(len(chunk), self.longest), 0, -1) if chunk[:n] in self.id_of)
            pieces.append(chunk[:size])
            chunk = chunk[size:]
        return pieces


class Scorer:
    """Scores requests with one student, in batches of similar length; the result does not depend on the batching."""

    def __init__(self, student: ByteStudent, *, stage: int, batch_bytes: int = 16384):
        """Raise ValueError for Stage 2 of a student that has no joint head."""
        if stage == 2:
            student.check_jbp("scores along the router's cuts")
        self.student, self.stage, self.batch_bytes = student.eval(), stage, batch_bytes

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.student)

    @torch.no_grad()
    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Score each request; the order of results is that of the requests."""
        scores: list[Score | None] = [None] * len(requests)
        for places in self.batches(requests):
            batch = [requests[place] for place in places]
            for place, score in zip(places, self._score_tokens(batch) if self.stage == 1 else self._score_bytes(batch),
                                    strict=True):
                scores[place] = score
        return scores

    @torch.no_grad()
    def chunk_ends(self, request: Request) -> list[int]:
        """Where the chunks of a text end when it is scored, BOS left out; ascending, the last is len(text)."""
        if request.token_ends is not None:
            return list(request.token_ends)
        routed_L = self._routed(*self._rows([request]))[0].cpu()
        if self.stage == 1:
            return self._token_ends(request, routed_L)
        return [end for end in routed_L.nonzero()[:, 0].tolist() if end > 0]

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Places of requests, grouped so that a padded batch holds about batch_bytes bytes."""
        batches: list[list[int]] = []
        for place in sorted(range(len(requests)), key=lambda place: len(requests[place].text)):
            if not batches or (len(batches[-1]) + 1) * (len(requests[place].text) + 1) > self.batch_bytes:
                batches.append([])
            batches[-1].append(place)
        return batches

    def _rows(self, batch: list[Request]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """BOS + text, right-padded: byte ids, mask, document, and the encoder's states."""
        texts = [bytes([BOS]) + request.text for request in batch]
        ids_BL = pad_bytes(texts, device=self.student.device)
        length_B = torch.tensor([len(text) for text in texts], device=ids_BL.device)
        mask_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device) < length_B[:, None]
        document_BL = torch.zeros_like(ids_BL).masked_fill(~mask_BL, -1)
        return ids_BL, mask_BL, document_BL, self.student.encode(ids_BL, document_BL)

    def _routed(self, ids_BL: Tensor, mask_BL: Tensor, document_BL: Tensor, encoded_BLD: Tensor) -> Tensor:
        """The router's boundaries."""
        return (self.student.route(encoded_BLD, ids_BL, document_BL) >= THRESHOLD) & mask_BL

    # -- Stage 1 ------------------------------------------------------------------------------------------------------

    def _score_tokens(self, batch: list[Request]) -> list[Score]:
        ids_BL, mask_BL, document_BL, encoded_BLD = self._rows(batch)
        routed_BL = self._routed(ids_BL, mask_BL, document_BL, encoded_BLD).cpu()
        ends = [list(request.token_ends) if request.token_ends is not None else self._token_ends(request, routed_L)
                for request, routed_L in zip(batch, routed_BL, strict=True)]
        boundary_BL = torch.zeros_like(mask_BL)
        for row, places in enumerate(ends):
            boundary_BL[row, [0, *places]] = True  # byte i of the text is byte i + 1 of the row
        chunks = find_chunks(boundary_BL, document_BL, mask_BL)
        core_BME = self.student.run_core(self.student.chunk_embeddings(encoded_BLD, chunks), chunks)
        return [self._score_row(request, places, core_ME) for request, places, core_ME in
                zip(batch, ends, core_BME, strict=True)]

    def _token_ends(self, request: Request, routed_L: Tensor) -> list[int]:
        """Where tokens end along the router's cuts; the context's and the text's last byte end one."""
        text, routed = request.text, routed_L.nonzero()[:, 0].tolist()
        cuts = sorted({end for end in [*routed, request.start, len(text)] if 0 < end <= len(text)})
        ends = []
        for start, end in zip([0, *cuts], cuts, strict=False):
            for piece in self.vocabulary.split(text[start:end]):
                start += len(piece)
                ends.append(start)
        return ends

    def _score_row(self, request: Request, ends: list[int], core_ME: Tensor) -> Score:
        """Sum the tokens that end behind the context; the k-th token is predicted at chunk k (chunk 0 is BOS)."""
        first = next(k for k, end in enumerate(ends) if end > request.start)
        starts = [0, *ends]
        tokens = [self.vocabulary.id_of[request.text[starts[k] : ends[k]]] for k in range(first, len(ends))]
        token_T = torch.tensor(tokens, device=core_ME.device)
        logits_TV = self.student.token_head(core_ME[first : len(ends)]).float()
        nats_T = logits_TV.log_softmax(-1).gather(1, token_T[:, None])
        return Score(nats_T.sum().item(), bool((logits_TV.argmax(-1) == token_T).all()))

    # -- Stage 2 ------------------------------------------------------------------------------------------------------

    def _score_bytes(self, batch: list[Request]) -> list[Score]:
        both_BL2, flag_BL, right_BL = self.flag_laws(batch)
        joint_BL = both_BL2.gather(2, flag_BL[..., None].long())[..., 0]
        folded_BL = both_BL2.logsumexp(-1)
        return [self._score_span(joint_BL[row], folded_BL[row], right_BL[row], slice(request.start, len(request.text)))
                for row, request in enumerate(batch)]

    @torch.no_grad()
    def flag_laws(
        self, batch: list[Request], given: list[dict[int, bool]] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the joint head says of each byte of the texts, read along the router's flags.

        given: for each text, flags in place of the router's, by the number of the byte.
        Returns:
            log p(byte, flag) for both flags [B, L, 2]; the flags read along [B, L], bool; whether the likeliest joint
            symbol has the byte [B, L], bool. L bytes of text; the first and the last hold for what is scored, from the
            context's last byte to the text's end: the head is not asked elsewhere.
        """
        ids_BL, mask_BL, document_BL, encoded_BLD = self._rows(batch)
        prob_BL = self.student.route(encoded_BLD, ids_BL, document_BL)
        boundary_BL = (prob_BL >= THRESHOLD) & mask_BL
        for row, flags in enumerate(given or ()):
            for place, flag in flags.items():
                boundary_BL[row, place + 1] = flag  # byte i of the text is byte i + 1 of the row
        chunks = find_chunks(boundary_BL, document_BL, mask_BL)
        core_BME = self.student.run_core(self.student.chunk_embeddings(encoded_BLD, chunks), chunks)
        decoded_BLD = self.student.decode(core_BME, encoded_BLD, chunks, document_BL, prob_BL)
        asked_BL = mask_BL[:, 1:].clone()
        for row, request in enumerate(batch):
            asked_BL[row, : max(request.start - 1, 0)] = False
        byte_N = ids_BL[:, 1:][asked_BL]
        log_NK2 = self.student.byte_head(decoded_BLD[:, :-1][asked_BL]).float().log_softmax(-1)
        both_BL2, right_BL = log_NK2.new_zeros(*asked_BL.shape, 2), torch.zeros_like(asked_BL)
        both_BL2[asked_BL] = log_NK2.gather(1, torch.stack([byte_N, byte_N + BYTES], dim=1))
        right_BL[asked_BL] = log_NK2.argmax(-1) % BYTES == byte_N
        return both_BL2, boundary_BL[:, 1:], right_BL

    def _score_span(self, joint_L: Tensor, folded_L: Tensor, right_L: Tensor, span: slice) -> Score:
        flag = joint_L[span.start - 1] - folded_L[span.start - 1] if span.start else 0.0
        return Score((joint_L[span].sum() + flag).item(), bool(right_L[span].all()), folded_L[span].sum().item())
