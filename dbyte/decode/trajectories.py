"""What a Stage-1 student writes after prompts, token by token, and what its teacher writes after the same ones.

Both draw under one temperature from the tokens that keep the text UTF-8, with random numbers of their own for each row
(sampling.py). A sample may be degenerate. It is counted by its kind, and what it may contribute is limited:

    empty       nothing but the end: one token is judged, the end
    repeating   the text ends in COPIES copies of one unit or more: it is cut after COPIES of them, without an end
    endless     the limit came before the end: it is cut at the last token within the limit, without an end

Shape letters: B prompts, R rows that draw, P positions of the longest prompt, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dbyte.decode.engine import Engine
from dbyte.decode.generate import begin, evaluating
from dbyte.decode.sampling import Sampler, Sampling
from dbyte.decode.utf8 import WHOLE, Alphabet, over_tokens, transitions
from dbyte.decode.writer import Writer
from dbyte.model.student import ByteStudent
from dbyte.text.spans import EOS

COPIES = 6  # of a unit, and more are a repetition
UNIT_BYTES = 48  # of the longest unit that is looked for
REPEATED_BYTES = 24  # of a repetition, at least: "....." is none
DEGENERATE = ("empty", "repeating", "endless")


@dataclass(frozen=True)
class Sample:
    """One completion: the tokens that were drawn, those of EOS included, and where each ends in its bytes.

    text: with the byte EOS at its end if the writer ended it. kind: one of DEGENERATE, or "" for any other sample.
    """

    text: bytes
    token_ids: tuple[int, ...]
    ends: tuple[int, ...]
    kind: str


class TokenWriter(Writer):
    """A writer of Stage 1 that keeps the tokens of each row."""

    def __init__(self, stream, before, **options):
        super().__init__(stream, before, **options)
        self.token_ids: list[list[int]] = [[] for _ in before]

    def _draw(self, logits_RX: Tensor, rows: list[int]) -> list[int]:
        drawn = super()._draw(logits_RX, rows)
        for row, token in zip(rows, drawn, strict=True):
            self.token_ids[row].append(token)
        return drawn


def student_writes(
    student: ByteStudent, prompts: Sequence[bytes], *, new_bytes: int, temperature: float, seed: int,
    repeats: Sequence[int] | None = None, engine: Engine | None = None,
) -> list[Sample]:
    """Continue prompts in the student's tokens, at most `new_bytes` each; prompts may be chats.

    repeats: as in `Sampler`. engine: computes the student's steps; None: plain torch.
    """
    sampling = Sampling(temperature, seed=seed)
    student.token_texts()  # raises before anything is read
    writer = begin(student, prompts, max_new_bytes=new_bytes, sampling=sampling, stage=1, repeats=repeats,
                   engine=engine, chat=True, kind=TokenWriter)
    with evaluating(student):
        writer.run()
    return [sample(tokens, writer.tokens, new_bytes) for tokens in writer.token_ids]


@torch.inference_mode()
def teacher_writes(
    teacher: PreTrainedModel, student: ByteStudent, prompts: Sequence[Sequence[int]], *, new_bytes: int,
    temperature: float, seed: int, repeats: Sequence[int] | None = None,
) -> list[Sample]:
    """Continue prompts, each as the teacher's token ids with BOS, as `student_writes` does; errors are those of torch.

    student: any student of this teacher, for the bytes of tokens.
    """
    texts = student.token_texts()
    symbols = Alphabet(over_tokens(student, transitions()), device=teacher.device)
    names = [" ".join(map(str, prompt)).encode() for prompt in prompts]
    sampler = Sampler(Sampling(temperature, seed=seed), names, repeats=repeats)
    longest = max(map(len, prompts))
    ids_BP = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=teacher.device)
    mask_BP = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts],
                           device=teacher.device)
    written: list[list[int]] = [[] for _ in prompts]
    states = [WHOLE] * len(prompts)
    room = [new_bytes] * len(prompts)
    rows = list(range(len(prompts)))
    cache = None
    while rows:
        out = teacher(input_ids=ids_BP, attention_mask=mask_BP, past_key_values=cache, use_cache=True,
                      position_ids=(mask_BP.cumsum(1) - 1).clamp(min=0)[:, -ids_BP.shape[1]:])
        cache = out.past_key_values
        logits_RV = symbols.bounded(out.logits[rows, -1].float(), [states[row] for row in rows])
        ids_BP = torch.zeros_like(ids_BP[:, :1])
        for row, token in zip(rows, sampler.draw(logits_RV, rows).tolist(), strict=True):
            states[row] = symbols.next[states[row]][token]
            written[row].append(token)
            ids_BP[row] = token
            room[row] -= len(texts[token]) or new_bytes
        rows = [row for row in rows if room[row] > 0]
        mask_BP = torch.cat([mask_BP, torch.ones_like(ids_BP)], dim=1)
    return [sample(tokens, texts, new_bytes) for tokens in written]


def sample(tokens: Sequence[int], texts: Sequence[bytes], limit: int) -> Sample:
    """The sample that drawn tokens make; a token without text ends it. limit: of its bytes, EOS not counted."""
    text = b"".join(texts[token] for token in tokens)
    ends = np.cumsum([len(texts[token]) or 1 for token in tokens]).tolist()
    ended = bool(tokens) and not texts[tokens[-1]]
    keep = repetition(text)
    kind = "repeating" if keep is not None else "" if ended and text else "empty" if ended else "endless"
    if ended and keep is None:
        return Sample(text + bytes([EOS]), tuple(tokens), tuple(ends), kind)
    keep = min(limit, len(text) if keep is None else keep)
    whole = len(text[:keep].decode(errors="ignore").encode())  # the text is UTF-8 but for its cut end
    ends = [end for end in ends if end <= whole]
    while ends and not _is_whole(text[: ends[-1]]):
        ends.pop()
    return Sample(text[: ends[-1] if ends else 0], tuple(tokens[: len(ends)]), tuple(ends), kind)


def repetition(text: bytes) -> int | None:
    """The length of a text that ends in COPIES copies of a unit or more, up to the end of the COPIES-th; else None."""
    for unit in range(1, min(UNIT_BYTES, len(text) // COPIES) + 1):
        size = unit
        while size < len(text) and text[-size - 1] == text[unit - size - 1]:
            size += 1
        if size >= max(COPIES * unit, REPEATED_BYTES):
            return len(text) - size + max(COPIES * unit, REPEATED_BYTES)
    return None


def _is_whole(text: bytes) -> bool:
    """Whether a beginning of UTF-8 ends between characters."""
    return text.decode(errors="ignore").encode() == text
