"""Notebook 12: the second paper (arXiv 2604.07466) and its rivals, from one teacher at equal bytes, each at its rate.

An arm is what a transfer does differently from the others. Its rate is the best of a sweep, the same for all arms, as
`evidence.best_factor` chooses it.
"""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from dbyte.byte_probabilities import ByteTeacher
from dbyte.distill.data import mixed_texts, training_corpora
from dbyte.distill.runs import Run, atomic_dir, content_hash
from dbyte.distill.teacher import train_tokenizer
from dbyte.model.ranks_file import QWEN_FILE
from dbyte.paths import RUNS
from dbyte.presets import Scale
from dbyte.text.packing import document, pack
from dbyte.transfer.byte_targets import byte_table
from dbyte.transfer.plan import Transfer, plan, transfer
from dbyte_paper.ablation_runs import Trained
from dbyte_paper.evidence import SWEEP, best_factor
from dbyte_paper.figures import BARS, STYLE, panels
from dbyte_paper.published import FOLDER

ARMS = {
    "SFT": {"method": "sft"},
    "SFT, MinED embeddings": {"method": "sft", "init": "mined"},
    "byte CE": {"method": "byte_ce"},
    "BLD": {"method": "bld", "reading": "coverings"},
    "BLD, targets along tokens": {"method": "bld", "reading": "joint"},
    "BLD, sequential head": {"method": "bld", "reading": "coverings", "head": "sequential"},
    "BLD, decoder head": {"method": "bld", "reading": "coverings", "head": "decoder"},
    "ALM": {"method": "alm"},
    "ALM + SFT": {"method": "alm_sft"},
    "GOLD": {"method": "gold"},
}
RATE = 2e-3  # before the sweep
BEAMS = ((1, 0.01), (3, 0.01), (10, 0.01), (10, 1e-9))


def pairs(scale: Scale, tokenizer: str | None, *, seed: int) -> dict[str, str]:
    """The student's tokenizer by the name of the pair; where there is no other BPE, that is said.

    tokenizer: a folder or hub name, None: `other_tokenizer`.
    """
    other = tokenizer or other_tokenizer(scale, seed=seed)
    if not other:
        print("Left out: from one BPE to another. Give `tokenizer`, or the folder of Qwen's file by $DBYTE_TOKENIZERS.")
    return ({"to another BPE": other} if other else {}) | {"to bytes": "bytes"}


def other_tokenizer(scale: Scale, *, seed: int) -> str | None:
    """The folder of a tokenizer with twice the vocabulary of the scale's teacher, trained on its corpora.

    For a teacher that was not trained here, Qwen's below the folder that $DBYTE_TOKENIZERS names, if it is there.
    """
    if isinstance(scale.teacher, str):
        named = os.environ.get("DBYTE_TOKENIZERS")
        found = sorted(Path(named).glob(f"**/{QWEN_FILE}")) if named else []
        return str(found[0].parent) if found else None
    vocabulary = 2 * scale.teacher.vocabulary
    corpora = training_corpora(scale, seed=seed)
    key = content_hash([[corpus.content_hash for corpus in corpora], vocabulary, seed])
    folder = RUNS / "data" / f"tokenizer-{key[:16]}"
    if not (folder / "tokenizer.json").exists():
        with atomic_dir(folder) as new:
            train_tokenizer(mixed_texts(corpora, seed=seed), vocabulary=vocabulary).save_pretrained(new)
    return str(folder)


def texts_of(scale: Scale, size: int, seed: int) -> list[str]:
    """Training texts of so many bytes, or all there are."""
    found, total = [], 0
    for text in mixed_texts(training_corpora(scale, seed=seed), seed=seed):
        found.append(text)
        total += len(text.encode())
        if total >= size:
            break
    return found


def train_arms(
    scale: Scale, arms: Mapping[str, Mapping], *, seed: int, pair: str = "", train_bytes: int | None = None,
    **shared: object,
) -> tuple[Trained, dict[str, dict]]:
    """Each arm by the scale's seeds of an ablation, at its best rate with the first seed; and what each got.

    pair: ends the names, after a comma. shared: fields of `Transfer` that all arms have. What an arm got is as
    `evidence.arms` returns it.
    """
    size = train_bytes or scale.ablation.step_bytes
    texts = texts_of(scale, size, seed)
    trained, got = {}, {}
    for name, arm in arms.items():
        asked = Transfer(**{"train_bytes": size, "row_bytes": scale.row_bytes, "batch_rows": scale.ablation.batch_rows,
                            "precompute": True} | shared | arm)

        def run_at(factor: float, number: int, asked: Transfer = asked) -> Run:
            return transfer(plan(replace(asked, rate=factor * RATE), texts, seed=seed + number), device=scale.device,
                            rows_at_once=scale.rows_at_once)

        best = best_factor(scale, lambda factor, run_at=run_at: run_at(factor, 0).model_folder, "token", seed=seed)
        named = f"{name}, {pair}" if pair else name
        trained[named] = [[run_at(best, number)] for number in range(scale.ablation.seeds)]
        got[named] = {"train_bytes": size, "rate": best, "sweep": SWEEP}
    return trained, got


# -- how well a teacher's bytes are read ------------------------------------------------------------------------------


def quality_rows(folder: Path, texts: Sequence[str], *, limit: int) -> list[dict]:
    """How each reading of the teacher's bytes compares with the exact one, on the first `limit` bytes of each text.

    value: Jensen-Shannon divergence in nats, mean over bytes. bias: nats a byte that the reading gives the text more
    than the exact one does. healed: how often a beam had no state left. milliseconds: a byte.
    """
    teacher = ByteTeacher.from_pretrained(folder)
    beginnings = [teacher.bytes_of(text)[:limit].decode(errors="ignore") for text in texts]
    exact = _timed(lambda text: (teacher.read(text).log_prob_RS[:-1], 0), beginnings)
    found = {"coverings": exact, "along tokens": _timed(lambda text: (_along_tokens(teacher, text), 0), beginnings)}
    for K, epsilon in BEAMS:
        def beam(text: str, K: int = K, epsilon: float = epsilon) -> tuple[torch.Tensor, int]:
            one = teacher.beam(K=K, epsilon=epsilon)
            return one.log_probs(teacher.bytes_of(text))[:-1], one.healed

        found[f"beam, K = {K}, epsilon = {epsilon:g}"] = _timed(beam, beginnings)
    symbol_N = torch.tensor(list(b"".join(map(teacher.bytes_of, beginnings))))
    return [_quality(name, one, exact, symbol_N) for name, one in found.items()]


def _timed(read, texts: Sequence[str]) -> tuple[torch.Tensor, int, float]:
    """The log-probabilities of all texts, how often a beam was healed, and seconds."""
    began = time.perf_counter()
    tables, healed = zip(*map(read, texts), strict=True)
    return torch.cat(tables), sum(healed), time.perf_counter() - began


def _along_tokens(teacher: ByteTeacher, text: str) -> torch.Tensor:
    whole = document(teacher.tokens.align(text), teacher.tokens)
    return byte_table(teacher, pack([whole], row_bytes=len(whole)).batch([0]), "joint")[1:-1]


def _quality(name: str, found: tuple, exact: tuple, symbol_N: torch.Tensor) -> dict:
    one, other = (table.double() for table in (found[0], exact[0]))
    middle = torch.logaddexp(one, other) - math.log(2)
    halves = [torch.where(each > -torch.inf, each.exp() * (each - middle), 0).sum(1) for each in (one, other)]
    divergence_N = sum(halves) / 2
    given, wanted = (table.gather(1, symbol_N[:, None])[:, 0] for table in (one, other))
    finite_N = given > -torch.inf
    return {"reading": name, "value": divergence_N.mean().item(), "n": len(symbol_N),
            "stderr": divergence_N.std().item() / math.sqrt(len(symbol_N)),
            "bias": (given - wanted)[finite_N].mean().item(), "impossible": int((~finite_N).sum()), "healed": found[1],
            "milliseconds": 1000 * found[2] / len(symbol_N)}


def published() -> pd.DataFrame:
    """What both papers print (percent): paper, setting, method, column, printed, status.

    status: "read" where we read the paper itself, "quoted" where others quote it.
    """
    return pd.read_csv(FOLDER / "interface.csv", comment="#")


@rc_context(STYLE)
def quality_figure(rows: pd.DataFrame) -> Figure:
    """Return each reading's divergence from the exact one against its time a byte, both on logarithmic axes."""
    labels = ("milliseconds a byte", "divergence from exact, nats a byte")
    figure, ((axes,),) = panels(1, 1, size=(5.5, 3.2), labels=labels)
    drawn = rows[rows["value"] > 0]
    axes.errorbar(drawn["milliseconds"], drawn["value"], yerr=drawn["stderr"], fmt="o", **BARS)
    for row in drawn.itertuples():
        axes.annotate(row.reading, (row.milliseconds, row.value), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    return figure
