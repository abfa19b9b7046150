"""How quickly texts are continued: the three decoders, and a teacher by transformers' own generation, greedily.

EOS is suppressed everywhere, so that all write as much. The reading of the prompts counts. A teacher writes tokens
until its text has about as many bytes; what counts are the bytes of the tokens that it wrote.

Shape letters: B rows, L bytes, M tokens.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from dbyte.decode.engine import Engine
from dbyte.decode.generate import begin
from dbyte.decode.sampling import Sampling
from dbyte.kernels.fast import fast_products
from dbyte.model.student import BYTES, ByteStudent
from dbyte.model.teacher import load_teacher
from dbyte.native import engine_for
from dbyte.text.spans import EOS, TokenBytes
from dbyte_tasks.world.world import world_documents

ROUNDS = 3


@dataclass(frozen=True)
class Output:
    """What one call wrote over all rows: bytes, and positions of the core or tokens.

    reading: seconds in which a student read the prompts; 0 for a teacher, not measured.
    """

    text_bytes: int
    positions: int
    reading: float = field(default=0.0, compare=False)


def student_writes(
    student: ByteStudent, prompts: Sequence[bytes], new_bytes: int, *, stage: int, engine: Engine | None = None
) -> Callable[[], Output]:
    """A function that reads the prompts and writes new_bytes per row, by Stage 1 or 2."""

    def call() -> Output:
        started = time.perf_counter()
        writer = begin(student, prompts, max_new_bytes=new_bytes, sampling=Sampling(), stage=stage, valid_utf8=False,
                       engine=engine)
        reading = time.perf_counter() - started
        no_text = [token for token, text in enumerate(writer.tokens) if not text] if stage == 1 else []
        writer.symbols.floor_SX[:, no_text or slice(EOS, None, BYTES)] = float("-inf")
        writer.run()
        return Output(sum(map(len, writer.written)), writer.core_rows, reading)

    return call


def teacher_writes(
    teacher: PreTrainedModel, token_bytes: TokenBytes, prompts: Sequence[bytes], new_bytes: int
) -> Callable[[], Output]:
    """A function that writes about new_bytes per row with transformers, at the prompts' bytes per token."""
    rows = [[token_bytes.bos_token_id, *token_bytes.align(prompt.decode(errors="ignore")).token_ids.tolist()]
            for prompt in prompts]
    longest = max(map(len, rows))
    pad = token_bytes.eos_token_id
    ids_BM = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=teacher.device)
    mask_BM = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=teacher.device)
    tokens = max(new_bytes * sum(map(len, rows)) // sum(map(len, prompts)), 1)

    def call() -> Output:
        with torch.inference_mode(), fast_products():
            out_BM = teacher.generate(ids_BM, attention_mask=mask_BM, max_new_tokens=tokens, min_new_tokens=tokens,
                                      do_sample=False, pad_token_id=pad)[:, longest:]
        return Output(int(token_bytes.lengths[out_BM.cpu().numpy()].sum()), out_BM.numel())

    return call


def rates(calls: dict[str, Callable[[], Output]], *, rounds: int) -> dict[str, tuple[float, float]]:
    """Name -> (median bytes per second, half the interquartile range) over `rounds` rounds, after one warm-up round."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            wrote = call()
            if turn:
                found[name].append(wrote.text_bytes / (time.perf_counter() - started))
    return {name: (float(np.median(values)), float(np.subtract(*np.quantile(values, (0.75, 0.25)))) / 2)
            for name, values in found.items()}


def speed_rows(students: dict[str, ByteStudent], teacher: Path, *, size: int) -> list[dict]:
    """Tidy rows of bytes per second, 1 and 16 rows, prompts and texts of `size` bytes; Stage 1 is the first student's.

    All run where the first student is. Students write by plain steps, and by compiled ones too where these can run.
    stderr is half the spread between quartiles of the rounds, n their number.
    """
    first = next(iter(students.values()))
    found = []
    model, tokenizer = load_teacher(teacher, device=str(first.device))
    table = TokenBytes.from_tokenizer(tokenizer)
    text = "".join(world_documents(seed=7, max_bytes=64 * size)).encode()
    ways = {"": False} | ({" compiled": True} if engine_for(first).compiled else {})
    for rows in (1, 16):
        prompts = [text[row * size : (row + 1) * size] for row in range(rows)]
        calls = {"teacher": teacher_writes(model, table, prompts, size)}
        for way, compiled in ways.items():
            for name, student, stage in [("Stage 1", first, 1), *((name, one, 2) for name, one in students.items())]:
                engine = engine_for(student, compiled)
                calls[f"{name}{way}"] = student_writes(student, prompts, size, stage=stage, engine=engine)
        found += [{"decoder": name, "rows": rows, "value": rate, "stderr": spread, "n": ROUNDS}
                  for name, (rate, spread) in rates(calls, rounds=ROUNDS).items()]
    return found
