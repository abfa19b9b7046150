"""Log-probabilities of text under a student: what is scored, given what, and along which boundaries.

Stage 1 scores tokens: the sum of log P(token) given the core's state at the chunk before. The boundaries are
- "tokenizer": the teacher's own tokens, so a perfect student scores as its teacher does; or
- "router": the student's own boundaries, and one at the end of the context. Only tokens have a probability: a chunk
  that is no token (the router missed a boundary) is split as byte-pair encoding splits it, and a boundary inside a
  token leaves two shorter tokens, which are scored as such. So the sum is the exact log-probability of one
  segmentation, and a lower bound of log P(text).

Stage 2 scores bytes and flags: the sum of log p(byte, flag) along the router's boundaries, a lower bound of log
P(text). The router has seen the continuation's first byte when it sets the flag of the context's last byte. Therefore
log p(flag | byte) of that byte belongs to the continuation's score; without it the probabilities of all continuations
could add up to more than one. The sum over both flags of each byte ("folded") is no probability under a router that
sees the next byte. It is returned next to the joint score, and in its place only for a router that sees no later byte
(`entropy_router.py`), whose flags tell nothing: there it is the exact log P(text). `score_beam.py` tightens the bound,
and `score_own_boundaries.py` scores along the boundaries that the decoder itself decides.

Requests that begin alike are read once (`shared_prefix.py`). The heads run only where something is scored.

Shape letters: N texts, R rows to read (a text may be in several), L bytes of the longest text with BOS, V vocabulary;
T nodes of the tree of bytes, K nodes of the tree of chunks, E core width, S tokens that are scored, P bytes that are
asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dbyte.decode.engine import Engine
from dbyte.distill.progress import told
from dbyte.evaluate.shared_prefix import SharedTexts
from dbyte.kernels.fast import fast_products
from dbyte.model.entropy_router import EntropyRouter
from dbyte.model.student import BYTES, ByteStudent
from dbyte.text.prefix_tree import Tree, shared_bytes

LOGITS_AT_ONCE = 2**23  # numbers of a table of log-probabilities


@dataclass(frozen=True)
class Score:
    """The score of one continuation.

    nats: its log-probability (<= 0). greedy: whether each of its symbols is the likeliest one; at Stage 2 the byte of
    the likeliest joint symbol counts. folded_nats: Stage 2's sum over both flags of each byte (None elsewhere).
    """

    nats: float
    greedy: bool
    folded_nats: float | None = None


@dataclass(frozen=True)
class Request:
    """Bytes to score: `text[start:]` given BOS and `text[:start]`.

    token_ends: where the teacher's tokens end in `text` (ascending, the last is len(text)); None: the student decides.
    """

    text: bytes
    start: int
    token_ends: tuple[int, ...] | None = None

    def __post_init__(self):
        if not 0 <= self.start < len(self.text):
            raise ValueError(f"nothing to score: the continuation of {self.text[-40:]!r} is empty (start {self.start} "
                             f"of {len(self.text)} bytes); give at least one byte after the context")


def batch_by_prefix(requests: Iterable[Request], *, batch_bytes: int) -> list[list[Request]]:
    """Put requests whose texts begin alike into the same batch, about batch_bytes bytes to read in each.

    Equal requests are read once. A text costs the bytes that it does not share with the text before it in sorted order.
    """
    batches: list[list[Request]] = []
    size = 0
    previous = b""
    for request in sorted(dict.fromkeys(requests), key=lambda request: request.text):
        fresh = len(request.text) - shared_bytes(previous, request.text)
        if not batches or size + fresh > batch_bytes:
            batches.append([])
            size = 0
            fresh = len(request.text)
        batches[-1].append(request)
        size += fresh
        previous = request.text
    return batches


def text_bytes(batch: Iterable[Request]) -> int:
    """Bytes of the texts of requests."""
    return sum(len(request.text) for request in batch)


class Scorer:
    """Scores requests with one student along given tokens or the router's boundaries, whatever the batches."""

    needs_jbp = True  # at Stage 2

    def __init__(self, student: ByteStudent, *, stage: int, batch_bytes: int = 16384, engine: Engine | None = None):
        """batch_bytes: about how many bytes are read at a time. engine: computes the student's parts; None: torch.

        Raises:
            ValueError: for Stage 2 of a student that has no joint head.
        """
        if stage == 2 and self.needs_jbp:
            student.check_jbp("scores along the router's boundaries")
        self.student = student.eval()
        self.stage = stage
        self.batch_bytes = batch_bytes
        self.engine = engine or Engine(student)

    @torch.inference_mode()
    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Score each request; the order of results is that of the requests, and equal requests are scored once."""
        scores: dict[Request, Score] = {}
        for given in (True, False):
            alike = [request for request in requests if (request.token_ends is not None) == given]
            for batch in told(batch_by_prefix(alike, batch_bytes=self.batch_bytes), "scored batches", text_bytes):
                with fast_products():
                    found = self._score_tokens(batch) if self.stage == 1 else self._score_bytes(batch)
                scores |= zip(batch, found, strict=True)
        return [scores[request] for request in requests]

    def read(self, batch: Sequence[Request]) -> SharedTexts:
        """The texts of requests, ready to be read by the student."""
        return SharedTexts([request.text for request in batch], engine=self.engine,
                           starts=[request.start for request in batch])

    @torch.inference_mode()
    def chunk_ends(self, request: Request) -> list[int]:
        """Where the chunks of a text end when it is scored, without BOS; ascending, the last is len(text)."""
        if request.token_ends is not None:
            return list(request.token_ends)
        with fast_products():
            flag_L = self.read([request]).flags()[0]
        return self._token_ends(request, flag_L) if self.stage == 1 else np.flatnonzero(flag_L)[1:].tolist()

    # -- Stage 1 ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def token_nats(self, requests: Sequence[Request]) -> list[tuple[list[int], list[float]]]:
        """Stage 1: where the tokens of each text end, and log P of those after the context.

        The requests all have token_ends, or none has.
        """
        found = {}
        for batch in batch_by_prefix(requests, batch_bytes=self.batch_bytes):
            with fast_products():
                ends, owner_S, nats_S, _ = self._read_tokens(batch)
            found |= {request: (places, nats_S[owner_S == row].tolist())
                      for row, (request, places) in enumerate(zip(batch, ends, strict=True))}
        return [found[request] for request in requests]

    def _score_tokens(self, batch: list[Request]) -> list[Score]:
        """Sum over the tokens that end after the context."""
        _, owner_S, nats_S, best_S = self._read_tokens(batch)
        nats_N = np.bincount(owner_S, nats_S, minlength=len(batch))
        wrong_N = np.bincount(owner_S, ~best_S, minlength=len(batch))
        return [Score(nats, not wrong) for nats, wrong in zip(nats_N.tolist(), wrong_N.tolist(), strict=True)]

    def _read_tokens(self, batch: list[Request]) -> tuple[list[list[int]], np.ndarray, np.ndarray, np.ndarray]:
        """Where tokens end; and of those after the context whose they are, log P, and whether none is likelier [S].

        Along given tokens, or along the router's boundaries, for which the encoder reads the whole text.
        """
        if batch[0].token_ends is None:
            texts = self.read(batch)
            ends = [self._token_ends(request, flag_L) for request, flag_L in zip(batch, texts.flags(), strict=True)]
        else:  # the last token is predicted from what is before it, so its bytes are not read
            ends = [list(request.token_ends) for request in batch]
            texts = SharedTexts([request.text[: places[-2] if len(places) > 1 else 0]
                                 for request, places in zip(batch, ends, strict=True)], engine=self.engine)
        chunks = Tree.of([texts.node_NL[row, [0, *places[:-1]]].tolist() for row, places in enumerate(ends)])
        owner_S, node_S, token_S = self._asked(batch, ends, chunks)
        return ends, owner_S, *self._token_log_probs(texts.run_core(texts.encoded_TD, chunks), node_S, token_S)

    def _token_ends(self, request: Request, flag_L: np.ndarray) -> list[int]:
        """Where tokens end along the router's boundaries; the last bytes of the context and of the text end one."""
        text = request.text
        boundaries = sorted({*np.flatnonzero(flag_L).tolist(), request.start, len(text)} - {0})
        pieces = self.student.token_pieces
        return [place for start, end in pairwise([0, *boundaries]) for place in pieces.ends(text, start, end)]

    def _asked(self, batch: list[Request], ends: list[list[int]], chunks: Tree) -> tuple[np.ndarray, ...]:
        """Of the tokens after the context: their rows, chunks and ids; the k-th is predicted at chunk k (0 is BOS)."""
        asked_S = []
        for row, (request, places) in enumerate(zip(batch, ends, strict=True)):
            first = next(k for k, end in enumerate(places) if end > request.start)
            for k in range(first, len(places)):
                text = request.text[places[k - 1] if k else 0 : places[k]]
                asked_S.append((row, chunks.node_NL[row, k], self.student.token_pieces.id_of[text]))
        return tuple(np.array(asked_S).T)

    def _token_log_probs(
        self, core_KE: Tensor, node_S: np.ndarray, token_S: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """log P(token) at each of these chunks [S], and whether no token is likelier; the head runs once per chunk."""
        node_K, place_S = np.unique(node_S, return_inverse=True)
        nats_S = np.zeros(len(token_S))
        best_S = np.zeros(len(token_S), dtype=bool)
        size = max(LOGITS_AT_ONCE // len(self.student.token_head.weight), 1)
        for start in range(0, len(node_K), size):
            chosen_KE = core_KE[torch.from_numpy(node_K[start : start + size]).to(core_KE.device)]
            log_KV = self.student.token_head(chosen_KE).float().log_softmax(-1)
            here = np.flatnonzero((place_S >= start) & (place_S < start + size))
            row_S = torch.from_numpy(place_S[here] - start)
            asked_S = torch.from_numpy(token_S[here])
            nats_S[here] = log_KV[row_S, asked_S].cpu().numpy()
            best_S[here] = (log_KV.argmax(-1).cpu()[row_S] == asked_S).numpy()
        return nats_S, best_S

    # -- Stage 2 ------------------------------------------------------------------------------------------------------

    def _score_bytes(self, batch: list[Request]) -> list[Score]:
        texts = self.read(batch)
        flag_NL = texts.flags()
        scored_NL, last_NL = scored_places(texts, batch)
        both_NL2, right_NL = flag_log_probs(texts, np.arange(len(batch)), flag_NL, scored_NL | last_NL)
        joint_NL = np.where(flag_NL, both_NL2[..., 1], both_NL2[..., 0])
        folded_NL = np.logaddexp(both_NL2[..., 0], both_NL2[..., 1])
        nats_N = (joint_NL * scored_NL + (joint_NL - folded_NL) * last_NL).sum(1)
        folded_N = (folded_NL * scored_NL).sum(1)
        if isinstance(self.student.router, EntropyRouter):
            nats_N = folded_N
        greedy_N = (right_NL | ~scored_NL).all(1)
        return [Score(*values) for values in zip(nats_N.tolist(), greedy_N.tolist(), folded_N.tolist(), strict=True)]


def scored_places(texts: SharedTexts, batch: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
    """Two masks (bool [N, L], BOS at place 0): the bytes that are scored, and each context's last byte.

    The context's last byte is given, but its flag is scored. An empty context has no such byte, since BOS is always a
    chunk.
    """
    place_L = np.arange(texts.node_NL.shape[1])
    start_N1 = np.array([[request.start] for request in batch])  # byte i of a text is byte i + 1 of its row
    scored_NL = (place_L > start_N1) & (texts.node_NL >= 0)
    last_NL = (place_L == start_N1) & (start_N1 > 0)
    return scored_NL, last_NL


def flag_log_probs(
    texts: SharedTexts, row_R: np.ndarray, flag_RL: np.ndarray, asked_RL: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What the joint head says of bytes, read along given flags.

    It equals this, row by row, but computes what rows have in common once:
        log_LX = student(ids_1L, flag_1L).byte_logits[0].log_softmax(-1)
        both_L2 = [log_LX[i - 1, byte[i]], log_LX[i - 1, byte[i] + 256]] at each byte i
    Args:
        row_R: which text each row reads; a text may be read along several choices of flags.
        flag_RL: whether a chunk ends at each byte, BOS first. The flag of a text's last byte changes nothing.
        asked_RL: the bytes that are asked for, BOS never.
    Returns:
        log p(byte, flag) without and with the flag (float64 [R, L, 2]), and whether the likeliest symbol has the byte
        (bool [R, L]); zeros and False where not asked.
    """
    before_RL, nodes, logits = texts.decode(row_R, flag_RL)
    node_P = texts.node_NL[row_R][asked_RL]
    pair_P, place_P = np.unique(node_P * nodes + before_RL[asked_RL], return_inverse=True)
    node_P, before_P = np.divmod(pair_P, nodes)
    byte_P = texts.byte_T[torch.from_numpy(node_P).to(texts.byte_T.device)]
    log_PX = logits(before_P).float().log_softmax(-1)
    both_P2 = log_PX.gather(1, torch.stack([byte_P, byte_P + BYTES], dim=1)).cpu().numpy()
    right_P = (log_PX.argmax(-1) % BYTES == byte_P).cpu().numpy()
    both_RL2 = np.zeros((*asked_RL.shape, 2))
    right_RL = np.zeros(asked_RL.shape, dtype=bool)
    both_RL2[asked_RL] = both_P2[place_P]
    right_RL[asked_RL] = right_P[place_P]
    return both_RL2, right_RL
