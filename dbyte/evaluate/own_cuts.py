"""Log-probabilities of bytes under a Stage-2 student that cuts as it does while it writes, one byte at a time.

The context is read as a prompt is; behind it the decoder's own decisions end chunks: with JBP the likelier flag of each
byte that comes, with MBP the look-ahead from the byte before. Both know the past and the byte itself, and nothing else.
So the sum of log p(byte), both flags of JBP added up, is the exact log-probability of the text under a process that
writes it so, and no bound. It is the score that JBP and MBP have in common, and MBP's only one: along the router's cuts
its first head would be told by each cut what the next byte is.

Shape letters: B rows, L continuation bytes, K bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dbyte.decode.stream import ByteStream, pad_bytes
from dbyte.evaluate.scoring import Request, Score
from dbyte.model.router import THRESHOLD
from dbyte.model.student import BYTES, ByteStudent
from dbyte.text.spans import BOS

ROWS = 64


@dataclass(frozen=True)
class Walked:
    """What a student said of L bytes: their log-probabilities (nats), was the likeliest one right, did a chunk end."""

    nats_L: tuple[float, ...]
    right_L: tuple[bool, ...]
    ended_L: tuple[bool, ...]


def walk(student: ByteStudent, requests: Sequence[Request], *, rows: int = ROWS) -> list[Walked]:
    """Take each continuation in byte by byte behind its context; so many rows at a time, of similar length."""
    found: list[Walked | None] = [None] * len(requests)
    order = sorted(range(len(requests)), key=lambda k: (len(requests[k].text) - requests[k].start, requests[k].start))
    for first in range(0, len(order), rows):
        places = order[first : first + rows]
        for place, walked in zip(places, _walk([requests[place] for place in places], student), strict=True):
            found[place] = walked
    return found


@torch.inference_mode()
def _walk(requests: list[Request], student: ByteStudent) -> list[Walked]:
    rest_BL = pad_bytes([request.text[request.start :] for request in requests], device=student.device)
    stream = ByteStream(student, [request.text[: request.start] for request in requests], new_bytes=rest_BL.shape[1])
    nats, right, ended = [], [], []
    for byte_B in rest_BL.T:  # a row that has ended takes in zeros, which nobody looks at
        log_BK = byte_law(stream.logits_BX)
        nats.append(log_BK.gather(1, byte_B[:, None])[:, 0])
        right.append(stream.logits_BX.argmax(-1) % BYTES == byte_B)
        stream.read(byte_B)
        ended.append(stream.ended_B.clone())
    columns = [torch.stack(kind, 1).tolist() for kind in (nats, right, ended)]
    return [Walked(*(tuple(values[: len(request.text) - request.start]) for values in of))
            for request, *of in zip(requests, *columns, strict=True)]


def byte_law(logits_BX: Tensor) -> Tensor:
    """log p(next byte) [B, K]: JBP's flags added up, MBP's first head as it is."""
    log_BX = logits_BX.float().log_softmax(-1)
    return log_BX if log_BX.shape[1] == BYTES else torch.logaddexp(log_BX[:, :BYTES], log_BX[:, BYTES:])


class OwnCutsScorer:
    """Scores requests at Stage 2 along the decoder's own cuts; JBP's symbols and MBP's bytes are greedy as written."""

    def __init__(self, student: ByteStudent):
        self.student, self.stage = student.eval(), 2

    @torch.no_grad()
    def chunk_ends(self, request: Request) -> list[int]:
        """Where chunks of a text may end: the router's cuts of the context, and each byte of the continuation."""
        ids_BL = torch.tensor([[BOS, *request.text[: request.start]]], device=self.student.device)
        document_BL = torch.zeros_like(ids_BL)
        prob_BL = self.student.route(self.student.encode(ids_BL, document_BL), ids_BL, document_BL)
        cut = (prob_BL[0] >= THRESHOLD).nonzero()[:, 0].tolist()
        return [end for end in cut if end > 0] + list(range(request.start + 1, len(request.text) + 1))

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Score each request; ValueError for given token ends, which these scores do not follow."""
        if any(request.token_ends is not None for request in requests):
            raise ValueError("scores along the decoder's own cuts take no token ends: leave them out of the requests")
        return [Score(sum(walked.nats_L), all(walked.right_L)) for walked in walk(self.student, requests)]
