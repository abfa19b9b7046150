"""Log-probabilities of bytes under a Stage-2 student along its own boundaries: those it would decide while writing.

The context is read as a prompt is. After it the decoder's own decisions end chunks: with JBP the likelier flag of each
byte that comes, with MBP the look-ahead from the byte before. Both know the past and the byte itself, and nothing else.
So the sum of log p(byte), both flags of JBP added up, is the exact log-probability of the text under a process that
writes in this way, and no bound. It is the score that JBP and MBP have in common, and the only one of MBP: along the
router's boundaries MBP's first head would learn from each boundary what the next byte is.

`walk` is the definition: one byte at a time. JBP's boundaries of given bytes can also be found for all bytes at once,
as a fixed point (`settle`): read the text along a guess, see what the decoder would have decided at each byte, and take
that as the next guess. Up to the first byte where the two differ the new guess is what `walk` decides, so each round
settles at least one more byte. A guess that no longer changes is the decoder's own boundaries, and there are no others.

Shape letters: B rows, N texts, R texts that have not settled, L bytes, K = 256 bytes, X symbols of the byte head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lm_eval.models.utils import Collator
from torch import Tensor

from dbyte.decode.engine import Engine
from dbyte.decode.stream import ByteStream, check_text_bytes
from dbyte.distill.progress import told
from dbyte.evaluate.score import Request, Score, Scorer, flag_log_probs, scored_places, text_bytes
from dbyte.evaluate.shared_prefix import SharedTexts
from dbyte.model.student import BYTES, ByteStudent
from dbyte.text.spans import is_special

ROWS, MOST_ROWS = 64, 256
ROUNDS = 12  # by then only few texts have boundaries that still change


@dataclass(frozen=True)
class ByteScores:
    """Of each byte of a continuation: its log-probability, whether it is the likeliest, whether a chunk ends there."""

    nats_L: tuple[float, ...]
    right_L: tuple[bool, ...]
    ended_L: tuple[bool, ...]


# -- one byte at a time -----------------------------------------------------------------------------------------------


@torch.inference_mode()
def walk(
    student: ByteStudent, requests: Sequence[Request], *, rows: int = ROWS, engine: Engine | None = None
) -> list[ByteScores]:
    """Read each context as a prompt, then take in its continuation byte by byte, `rows` texts at a time.

    engine: computes the student's steps; None: torch.
    """
    engine = engine or Engine(student)
    collator = Collator(requests, sort_fn=lambda request: request.text)
    batches = told(list(collator.get_batched(n=rows)), "batches read byte by byte", text_bytes)
    walked = [scores for batch in batches for scores in _walk(batch, engine)]
    return collator.get_original(walked)


def _walk(requests: list[Request], engine: Engine) -> list[ByteScores]:
    given = [request.text[: request.start] for request in requests]
    rests = [request.text[request.start :] for request in requests]
    contexts = list(dict.fromkeys(given))
    longest = max(map(len, rests))
    stream = ByteStream(engine.student, contexts, new_bytes=longest, engine=engine)
    stream.take([contexts.index(context) for context in given])
    rows = list(range(len(requests)))
    said = [[] for _ in requests]  # for each byte: nats, whether it is the likeliest, whether a chunk ends
    for step in range(longest):
        unfinished = [place for place, row in enumerate(rows) if step < len(rests[row])]
        if len(unfinished) < len(rows):
            stream.take(unfinished)
            rows = [rows[place] for place in unfinished]
        byte_B = torch.tensor([rests[row][step] for row in rows], device=engine.student.device)
        nats_B = byte_log_probs(stream.logits_BX).gather(1, byte_B[:, None])[:, 0]
        right_B = stream.logits_BX.argmax(-1) % BYTES == byte_B
        stream.read(byte_B)
        for row, *values in zip(rows, nats_B.tolist(), right_B.tolist(), stream.ended_B.tolist(), strict=True):
            said[row].append(values)
    return [ByteScores(*zip(*bytes_L, strict=True)) for bytes_L in said]


def byte_log_probs(logits_BX: Tensor) -> Tensor:
    """log p(next byte) [B, K]: JBP's two flags added up, MBP's first head as it is."""
    log_BX = logits_BX.float().log_softmax(-1)
    if log_BX.shape[1] == BYTES:
        return log_BX
    return torch.logaddexp(log_BX[:, :BYTES], log_BX[:, BYTES:])


# -- all bytes at once ------------------------------------------------------------------------------------------------


@torch.inference_mode()
def settle(texts: SharedTexts, batch: Sequence[Request], *, rounds: int = ROUNDS) -> list[Score | None]:
    """Score requests of a JBP student by the fixed point; the router's boundaries are the first guess.

    texts: those of the batch, as of `Scorer.read`. None for a text that has not settled after so many rounds, or whose
    guess has more chunks than the core has positions: it is left to `walk`.
    """
    scored_NL, last_NL = scored_places(texts, batch)
    asked_NL = scored_NL | last_NL
    before_last_NL = np.arange(asked_NL.shape[1]) < texts.length_N[:, None] - 1  # no score depends on the last flag
    decided_NL = asked_NL & before_last_NL
    flag_NL = texts.flags() & before_last_NL
    special_NL = is_special(texts.byte_T).cpu().numpy()[texts.node_NL]
    scores: list[Score | None] = [None] * len(batch)
    row_R = np.arange(len(batch))
    for _ in range(rounds):
        row_R = row_R[flag_NL[row_R].sum(1) <= texts.student.core.config.max_position_embeddings]
        if not len(row_R):
            break
        both_RL2, right_RL = flag_log_probs(texts, row_R, flag_NL[row_R], asked_NL[row_R])
        likelier_RL = (both_RL2[..., 1] >= both_RL2[..., 0]) | special_NL[row_R]
        flag_RL = np.where(decided_NL[row_R], likelier_RL, flag_NL[row_R])
        settled_R = (flag_RL == flag_NL[row_R]).all(1)
        nats_R = (np.logaddexp(both_RL2[..., 0], both_RL2[..., 1]) * scored_NL[row_R]).sum(1)
        greedy_R = (right_RL | ~scored_NL[row_R]).all(1)
        for place in np.flatnonzero(settled_R):
            scores[row_R[place]] = Score(float(nats_R[place]), bool(greedy_R[place]))
        flag_NL[row_R] = flag_RL
        row_R = row_R[~settled_R]
    return scores


class OwnBoundariesScorer(Scorer):
    """Scores requests at Stage 2 along the decoder's own boundaries: JBP by the fixed point, MBP by `walk`."""

    needs_jbp = False

    def chunk_ends(self, request: Request) -> list[int]:
        """Where chunks of a text may end: the router's boundaries in the context, then every byte that is scored."""
        ends = super().chunk_ends(Request(request.text[: request.start], 0)) if request.start else []
        return ends + list(range(request.start + 1, len(request.text) + 1))

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Score each request; equal requests are scored once.

        Raises:
            ValueError: for given token ends, which these scores do not follow, and for bytes in a context that never
                occur in UTF-8.
        """
        if any(request.token_ends is not None for request in requests):
            raise ValueError("scores along the decoder's own boundaries take no token ends: leave them out of the "
                             "requests")
        for request in requests:
            check_text_bytes(request.text[: request.start])
        scores: dict[Request, Score | None] = dict.fromkeys(requests)
        if self.student.second_head is None:
            scores = dict(zip(requests, super().score(requests), strict=True))
        left = [request for request, score in scores.items() if score is None]
        longest = max((len(request.text) for request in left), default=1)
        rows = min(max(self.batch_bytes // longest, ROWS), MOST_ROWS)
        for request, walked in zip(left, walk(self.student, left, rows=rows, engine=self.engine), strict=True):
            scores[request] = Score(sum(walked.nats_L), all(walked.right_L))
        return [scores[request] for request in requests]

    def _score_bytes(self, batch: list[Request]) -> list[Score | None]:
        return settle(self.read(batch), batch)
