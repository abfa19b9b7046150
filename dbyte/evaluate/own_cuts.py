"""Log-probabilities of bytes under a Stage-2 student that cuts as it does while it writes, one byte at a time.

The context is read as a prompt is; behind it the decoder's own decisions end chunks: with JBP the likelier flag of each
byte that comes, with MBP the look-ahead from the byte before. Both know the past and the byte itself, and nothing else.
So the sum of log p(byte), both flags of JBP added up, is the exact log-probability of the text under a process that
writes it so, and no bound. It is the score that JBP and MBP have in common, and MBP's only one: along the router's cuts
its first head would be told by each cut what the next byte is.

`walk` reads so: a context once for all continuations beside it in a batch, and a row leaves when its continuation is
over. What it decides can be had for all bytes at once (`settled_cuts.py`), which is what the scorer does where it can.

Shape letters: B rows, L continuation bytes, K bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dbyte.decode.stream import ByteStream, check_text_bytes
from dbyte.evaluate.scoring import Request, Score, shares, sharing
from dbyte.evaluate.settled_cuts import ROUNDS, WORTH_A_ROUND, can_settle, settle
from dbyte.evaluate.side_by_side import side_by_side
from dbyte.model.router import THRESHOLD
from dbyte.model.student import BYTES, ByteStudent
from dbyte.native import engine_for
from dbyte.native.library import parts_of, wanted
from dbyte.text.spans import BOS

ROWS, MOST_ROWS = 64, 256
SHOWS = 16  # one text in so many of the first batch


@dataclass(frozen=True)
class Walked:
    """What a student said of L bytes: their log-probabilities (nats), was the likeliest one right, did a chunk end."""

    nats_L: tuple[float, ...]
    right_L: tuple[bool, ...]
    ended_L: tuple[bool, ...]


def walk(
    student: ByteStudent, requests: Sequence[Request], *, rows: int = ROWS, compiled: bool = False
) -> list[Walked]:
    """Take each continuation in byte by byte behind its context; so many rows at a time, neighbours by their texts."""
    found: list[Walked | None] = [None] * len(requests)
    order = sorted(range(len(requests)), key=lambda k: requests[k].text)
    for first in range(0, len(order), rows):
        places = order[first : first + rows]
        batch = [requests[place] for place in places]
        for place, walked in zip(places, _walk(batch, student, compiled=compiled), strict=True):
            found[place] = walked
    return found


@torch.inference_mode()
def _walk(requests: list[Request], student: ByteStudent, *, compiled: bool) -> list[Walked]:
    contexts = list(dict.fromkeys(request.text[: request.start] for request in requests))
    rests = [request.text[request.start :] for request in requests]
    stream = ByteStream(student, contexts, new_bytes=max(map(len, rests)), engine=engine_for(student, compiled))
    stream.take([contexts.index(request.text[: request.start]) for request in requests])
    rows, said = list(range(len(requests))), [([], [], []) for _ in requests]
    for step in range(max(map(len, rests))):
        going = [place for place, row in enumerate(rows) if step < len(rests[row])]
        if len(going) < len(rows):
            rows = [rows[place] for place in stream.keep(going)]
        byte_B = torch.tensor([rests[row][step] for row in rows], device=student.device)
        nats_B = byte_law(stream.logits_BX).gather(1, byte_B[:, None])[:, 0]
        right_B = stream.logits_BX.argmax(-1) % BYTES == byte_B
        stream.read(byte_B)
        columns = (column_B.tolist() for column_B in (nats_B, right_B, stream.ended_B))
        for row, *values in zip(rows, *columns, strict=True):
            for kind, value in zip(said[row], values, strict=True):
                kind.append(value)
    return [Walked(*map(tuple, kinds)) for kinds in said]


def byte_law(logits_BX: Tensor) -> Tensor:
    """log p(next byte) [B, K]: JBP's flags added up, MBP's first head as it is."""
    log_BX = logits_BX.float().log_softmax(-1)
    return log_BX if log_BX.shape[1] == BYTES else torch.logaddexp(log_BX[:, :BYTES], log_BX[:, BYTES:])


class OwnCutsScorer:
    """Scores requests at Stage 2 along the decoder's own cuts; JBP's symbols and MBP's bytes are greedy as written."""

    def __init__(self, student: ByteStudent, *, batch_bytes: int = 16384, compiled: bool | None = None):
        """compiled: as of `Scorer`."""
        self.student, self.stage, self.batch_bytes = student.eval(), 2, batch_bytes
        self.compiled = wanted(compiled, student)

    @torch.no_grad()
    def chunk_ends(self, request: Request) -> list[int]:
        """Where chunks of a text may end: the router's cuts of the context, and each byte of the continuation."""
        ids_BL = torch.tensor([[BOS, *request.text[: request.start]]], device=self.student.device)
        document_BL = torch.zeros_like(ids_BL)
        prob_BL = self.student.route(self.student.encode(ids_BL, document_BL), ids_BL, document_BL)
        cut = (prob_BL[0] >= THRESHOLD).nonzero()[:, 0].tolist()
        return [end for end in cut if end > 0] + list(range(request.start + 1, len(request.text) + 1))

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Score each request.

        Raises:
            ValueError: for given token ends, which these scores do not follow, and bytes that UTF-8 does not have in a
                context.
        """
        if any(request.token_ends is not None for request in requests):
            raise ValueError("scores along the decoder's own cuts take no token ends: leave them out of the requests")
        for request in requests:
            check_text_bytes(request.text[: request.start])
        pieces = shares(requests, parts_of(len(requests))) if self.compiled and requests else [requests]
        scores: dict[Request, Score] = {}
        for some in side_by_side(self._score, pieces):
            scores |= some
        return [scores[request] for request in requests]

    def _score(self, requests: Sequence[Request]) -> dict[Request, Score]:
        """On one thread of Python, which shares nothing with others that do the same but the student."""
        scores: dict[Request, Score] = {}
        if can_settle(self.student, compiled=self.compiled):
            rounds = ROUNDS
            for batch in self._batches(requests):
                found = settle(self.student, batch, compiled=self.compiled, rounds=rounds)
                scores |= {request: Score(one.nats, one.greedy)
                           for request, one in zip(batch, found, strict=True) if one is not None}
                if sum(one is not None and one.by_the_byte for one in found) > (1 - WORTH_A_ROUND) * len(found):
                    rounds = 0  # requests of one call are alike
        left = [request for request in dict.fromkeys(requests) if request not in scores]
        longest = max((len(request.text) for request in left), default=1)
        rows = min(max(self.batch_bytes // longest, ROWS), MOST_ROWS)
        for request, walked in zip(left, walk(self.student, left, rows=rows, compiled=self.compiled), strict=True):
            scores[request] = Score(sum(walked.nats_L), all(walked.right_L))
        return scores

    def _batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        """As `sharing`; of the first a few come before the rest, since they show whether rounds are worth it."""
        batches = [list(batch) for batch in sharing(list(dict.fromkeys(requests)), batch_bytes=self.batch_bytes)]
        if batches and (few := len(batches[0]) // SHOWS):
            batches[:1] = [batches[0][:few], batches[0][few:]]
        return batches
