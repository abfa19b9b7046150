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

What requests have in common is read once (`shared_context.py`), and what no score depends on is left out: with given
tokens the last one's bytes, the decoder's last block where no byte is scored, heads before the continuation.

Shape letters: B rows, L bytes, M chunks, N bytes that are scored, V vocabulary, K2 = 512 joint symbols; T nodes of
trees of bytes, K of chunks, S tokens that are scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dbyte.decode.stream import pad_bytes
from dbyte.evaluate.shared_context import SharedTexts
from dbyte.model.chunking import find_chunks
from dbyte.model.router import THRESHOLD
from dbyte.model.student import BYTES, ByteStudent
from dbyte.native.library import wanted
from dbyte.text.prefix_tree import Tree, shared_bytes
from dbyte.text.spans import BOS

LOGITS_AT_ONCE = 2**23  # numbers of a table of log-probabilities


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
        self.id_of = {text: token for token, text in reversed(list(enumerate(student.token_texts()))) if text}
        self.longest = max(map(len, self.id_of))

    def split(self, chunk: bytes) -> list[bytes]:
        """Cut bytes into tokens, the longest first from the left; every single byte of UTF-8 is a token."""
        pieces = []
        while chunk not in self.id_of:
            size = next(n for n in range(min(len(chunk) - 1, self.longest), 0, -1) if chunk[:n] in self.id_of)
            pieces.append(chunk[:size])
            chunk = chunk[size:]
        return [*pieces, chunk]


def sharing(requests: Sequence[Request], *, batch_bytes: int) -> list[list[Request]]:
    """Requests of one kind, neighbours in the order of their texts, with about batch_bytes bytes to read."""
    batches: list[list[Request]] = []
    size, last = 0, None
    for request in sorted(requests, key=lambda request: (request.token_ends is None, request.text, request.start)):
        alike = last is not None and (last.token_ends is None) == (request.token_ends is None)
        fresh = len(request.text) - (shared_bytes(last.text, request.text) if alike else 0)
        if not alike or size + fresh > batch_bytes:
            batches.append([])
            size, fresh = 0, len(request.text)
        batches[-1].append(request)
        size, last = size + fresh, request
    return batches


def shares(requests: Sequence[Request], count: int) -> list[list[Request]]:
    """The requests, each once, as at most so many runs of neighbours with about as many bytes to read each."""
    order = sorted(dict.fromkeys(requests), key=lambda request: (request.text, request.start))
    fresh = [len(two.text) - shared_bytes(one.text, two.text) for one, two in pairwise(order)]
    read_N = np.cumsum([len(order[0].text), *fresh])
    bounds = np.searchsorted(read_N, read_N[-1] * np.arange(1, count) / count)
    return [order[first:end] for first, end in pairwise([0, *bounds.tolist(), len(order)]) if first < end]


class Scorer:
    """Scores requests with one student, in batches of shared beginnings; no result depends on the batching."""

    def __init__(
        self, student: ByteStudent, *, stage: int, batch_bytes: int = 16384, compiled: bool | None = None
    ):
        """compiled: read by compiled code, equal within rounding; None: where it can be (native.py).

        Raises:
            ValueError: for Stage 2 of a student that has no joint head.
        """
        if stage == 2:
            student.check_jbp("scores along the router's cuts")
        self.student, self.stage, self.batch_bytes = student.eval(), stage, batch_bytes
        self.compiled = wanted(compiled, student)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.student)

    @torch.inference_mode()
    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Score each request; the order of results is that of the requests, and equal requests are scored once."""
        places: dict[Request, list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(request, []).append(place)
        scores: list[Score | None] = [None] * len(requests)
        for batch in sharing(list(places), batch_bytes=self.batch_bytes):
            for request, score in zip(batch, self._score(batch), strict=True):
                for place in places[request]:
                    scores[place] = score
        return scores

    def _score(self, batch: list[Request]) -> list[Score]:
        if self.stage == 2:
            return self._score_bytes(batch)
        return self._score_cuts(batch) if batch[0].token_ends is None else self._score_tokens(batch)

    @torch.no_grad()
    def chunk_ends(self, request: Request) -> list[int]:
        """Where the chunks of a text end when it is scored, BOS left out; ascending, the last is len(text)."""
        if request.token_ends is not None:
            return list(request.token_ends)
        routed_L = self._routed(*self._rows([request]))[0].cpu()
        if self.stage == 1:
            return self._token_ends(request, routed_L.numpy())
        return [end for end in routed_L.nonzero()[:, 0].tolist() if end > 0]

    # -- Stage 1 ------------------------------------------------------------------------------------------------------

    def _score_tokens(self, batch: list[Request]) -> list[Score]:
        """Along given tokens: the last one is predicted from what is before it, and not read."""
        ends = [list(request.token_ends) for request in batch]
        read = [request.text[: places[-2] if len(places) > 1 else 0]
                for request, places in zip(batch, ends, strict=True)]
        texts = SharedTexts(self.student, read, compiled=self.compiled)
        chunks = _chunks(texts, ends)
        return self._token_scores(batch, ends, texts.run_core(texts.encode(chunks.symbol_T), chunks), chunks)

    def _score_cuts(self, batch: list[Request]) -> list[Score]:
        """Along the router's cuts, for which the whole text is read."""
        texts = SharedTexts(self.student, [request.text for request in batch], compiled=self.compiled)
        encoded_TD = texts.encode()
        ends = [self._token_ends(request, routed_L) for request, routed_L in
                zip(batch, texts.flags(texts.boundary_prob(encoded_TD)), strict=True)]
        chunks = _chunks(texts, ends)
        return self._token_scores(batch, ends, texts.run_core(encoded_TD, chunks), chunks)

    def _token_ends(self, request: Request, routed_L: np.ndarray) -> list[int]:
        """Where tokens end along the router's cuts; the context's and the text's last byte end one."""
        text, routed = request.text, np.flatnonzero(routed_L).tolist()
        cuts = sorted({end for end in [*routed, request.start, len(text)] if 0 < end <= len(text)})
        ends = []
        for start, end in zip([0, *cuts], cuts, strict=False):
            for piece in self.vocabulary.split(text[start:end]):
                start += len(piece)
                ends.append(start)
        return ends

    def _token_scores(
        self, batch: list[Request], ends: list[list[int]], core_KE: Tensor, chunks: Tree
    ) -> list[Score]:
        """Sum the tokens that end behind the context; the k-th token is predicted at chunk k (chunk 0 is BOS)."""
        owner_S, node_S, token_S = [], [], []
        for row, (request, places) in enumerate(zip(batch, ends, strict=True)):
            first = next(k for k, end in enumerate(places) if end > request.start)
            for k in range(first, len(places)):
                text = request.text[places[k - 1] if k else 0 : places[k]]
                owner_S.append(row)
                node_S.append(chunks.node_NL[row, k])
                token_S.append(self.vocabulary.id_of[text])
        nats_S, best_S = self._token_law(core_KE, np.array(node_S), np.array(token_S))
        nats_N = np.bincount(owner_S, nats_S, minlength=len(batch))
        wrong_N = np.bincount(owner_S, ~best_S, minlength=len(batch))
        return [Score(nats, not wrong) for nats, wrong in zip(nats_N.tolist(), wrong_N.tolist(), strict=True)]

    def _token_law(self, core_KE: Tensor, node_S: np.ndarray, token_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log P(token) at each of these chunks, and whether no token is likelier; the head is asked once a chunk."""
        node_K, place_S = np.unique(node_S, return_inverse=True)
        nats_S, best_S = np.zeros(len(token_S)), np.zeros(len(token_S), dtype=bool)
        size = max(LOGITS_AT_ONCE // len(self.student.token_head.weight), 1)
        for start in range(0, len(node_K), size):
            chosen_KE = core_KE[torch.from_numpy(node_K[start : start + size]).to(core_KE.device)]
            log_KV = self.student.token_head(chosen_KE).float().log_softmax(-1)
            here = np.flatnonzero((place_S >= start) & (place_S < start + size))
            row_R, token_R = torch.from_numpy(place_S[here] - start), torch.from_numpy(token_S[here])
            nats_S[here] = log_KV[row_R, token_R].cpu().numpy()
            best_S[here] = (log_KV.argmax(-1).cpu()[row_R] == token_R).numpy()
        return nats_S, best_S

    # -- Stage 2 ------------------------------------------------------------------------------------------------------

    def _score_bytes(self, batch: list[Request]) -> list[Score]:
        texts = SharedTexts(self.student, [request.text for request in batch], compiled=self.compiled)
        encoded_TD = texts.encode()
        prob_T = texts.boundary_prob(encoded_TD)
        flag_NL, node_NL = texts.flags(prob_T), texts.node_NL
        chunks = Tree.of([node_NL[row, closed_L.nonzero()[0][:-1]].tolist() for row, closed_L in enumerate(flag_NL)])
        place_L, start_N1 = np.arange(node_NL.shape[1]), np.array([[request.start] for request in batch])
        scored_NL = (place_L > start_N1) & (node_NL >= 0)  # byte i of the text is byte i + 1 of the row
        last_NL = (place_L == start_N1) & (start_N1 > 0)  # the context's last byte, whose flag belongs to the score
        asked = np.unique(node_NL[scored_NL | last_NL])
        decoded_TD = texts.decode(texts.run_core(encoded_TD, chunks), encoded_TD, chunks, flag_NL, prob_T, asked)
        both_T2, right_T = self._joint_law(decoded_TD, texts.byte_T, asked)
        both_NL2 = both_T2[node_NL]
        joint_NL = np.where(flag_NL, both_NL2[..., 1], both_NL2[..., 0])
        folded_NL = np.logaddexp(both_NL2[..., 0], both_NL2[..., 1])
        nats_N = (joint_NL * scored_NL + (joint_NL - folded_NL) * last_NL).sum(1)
        right_N = (right_T[node_NL] | ~scored_NL).all(1)
        return [Score(nats, right, folded) for nats, right, folded in
                zip(nats_N.tolist(), right_N.tolist(), (folded_NL * scored_NL).sum(1).tolist(), strict=True)]

    def _joint_law(self, decoded_TD: Tensor, byte_T: Tensor, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log p(byte, flag) of these nodes for both flags [T, 2], and whether the likeliest symbol has the byte [T]."""
        both_T2, right_T = np.zeros((len(byte_T), 2)), np.zeros(len(byte_T), dtype=bool)
        node_N = torch.from_numpy(asked).to(byte_T.device)
        byte_N = byte_T[node_N]
        log_NK2 = self.student.byte_head(decoded_TD[node_N]).float().log_softmax(-1)
        both_T2[asked] = log_NK2.gather(1, torch.stack([byte_N, byte_N + BYTES], dim=1)).cpu().numpy()
        right_T[asked] = (log_NK2.argmax(-1) % BYTES == byte_N).cpu().numpy()
        return both_T2, right_T

    # -- whole rows, for flags of one's own choice --------------------------------------------------------------------

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


def _chunks(texts: SharedTexts, ends: list[list[int]]) -> Tree:
    """The chunks that end at these bytes of the texts, behind that of BOS; without the last, which nothing follows."""
    return Tree.of([texts.node_NL[row, [0, *places[:-1]]].tolist() for row, places in enumerate(ends)])
