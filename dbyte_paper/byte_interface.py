"""Notebook 12: the second paper (arXiv 2604.07466) and its rivals, from one teacher at equal bytes, each at its rate.

An arm is what a transfer does differently from the others. Its rate is the one of a sweep, the same for all arms, that
gives the fewest bits per byte on texts that nothing trains on and no result is measured on.
"""

import math
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
from dbyte.distill.runs import Run, content_hash
from dbyte.distill.teacher import train_tokenizer
from dbyte.evaluate.bits import bits_per_byte, heldout_pieces, teacher_nats
from dbyte.model.teacher import load_model, load_tokenizer
from dbyte.paths import RUNS
from dbyte.presets import Scale
from dbyte.text.packing import document, pack
from dbyte.text.spans import TokenBytes
from dbyte.transfer.byte_targets import byte_table
from dbyte.transfer.plan import Transfer, plan, transfer
from dbyte_paper.figures import BARS, STYLE, panels
from dbyte_paper.published import FOLDER

ARMS = {
    "SFT": {"method": "sft"},
    "SFT, MinED embeddings": {"method": "sft", "init": "mined"},
    "byte CE": {"method": "byte_ce"},
    "BLD": {"method": "bld"},
    "BLD, targets along tokens": {"method": "bld", "reading": "joint"},
    "BLD, sequential head": {"method": "bld", "head": "sequential"},
    "ALM": {"method": "alm"},
    "ALM + SFT": {"method": "alm_sft"},
}
CHOOSING_BYTES = 20_000  # of text to choose rates on, or what the scale holds out, if that is less
BEAMS = ((1, 0.01), (3, 0.01), (10, 0.01), (10, 1e-9))


def other_tokenizer(scale: Scale, *, seed: int) -> str:
    """The folder of a tokenizer with twice the vocabulary of the scale's teacher, trained on its corpora.

    Raises ValueError for a teacher that was not trained here.
    """
    if isinstance(scale.teacher, str):
        raise ValueError(f"scale {scale.name} has the teacher {scale.teacher}: name another tokenizer for its student "
                         "(the notebook's parameter `tokenizer`)")
    vocabulary = 2 * scale.teacher.vocabulary
    corpora = training_corpora(scale, seed=seed)
    key = content_hash([[corpus.content_hash for corpus in corpora], vocabulary, seed])
    folder = RUNS / "data" / f"tokenizer-{key[:16]}"
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(mixed_texts(corpora, seed=seed), vocabulary=vocabulary).save_pretrained(folder)
    return str(folder)


def texts_of(scale: Scale, size: int, seed: int) -> tuple[list[str], list[str]]:
    """Training texts of so many bytes, or all there are, and those after them to choose rates on."""
    texts = iter(mixed_texts(training_corpora(scale, seed=seed), seed=seed))

    def taken(limit: int) -> list[str]:
        found, total = [], 0
        for text in texts:
            found.append(text)
            total += len(text.encode())
            if total >= limit:
                break
        return found

    choosing = taken(min(CHOOSING_BYTES, scale.heldout_bytes))
    return taken(size), choosing


def train_arms(
    scale: Scale, arms: Mapping[str, Mapping], *, rates: Sequence[float], seed: int, train_bytes: int | None = None,
    **shared: object,
) -> tuple[dict[str, list[list[Run]]], pd.DataFrame]:
    """Each arm by the scale's seeds of an ablation, at its best rate with the first seed; and the sweep.

    shared: fields of `Transfer` that all arms have. Returns the runs as ablation_runs.py takes them, and rows (arm,
    rate, value: bits per byte on the choosing texts).
    """
    size = train_bytes or scale.ablation.step_bytes
    texts, choosing = texts_of(scale, size, seed)
    trained = {}
    sweep = []
    for name, arm in arms.items():
        asked = Transfer(**{"train_bytes": size, "row_bytes": scale.row_bytes, "batch_rows": scale.ablation.batch_rows,
                            "precompute": True} | shared | arm)

        def run_at(rate: float, number: int, asked: Transfer = asked) -> Run:
            return transfer(plan(replace(asked, rate=rate), texts, seed=seed + number), device=scale.device,
                            rows_at_once=scale.rows_at_once)

        found = {rate: _bits(run_at(rate, 0).model_folder, choosing, scale) for rate in rates}
        sweep += [{"arm": name, "rate": rate, "value": value} for rate, value in found.items()]
        best = min(found, key=found.get)
        trained[name] = [[run_at(best, number)] for number in range(scale.ablation.seeds)]
    return trained, pd.DataFrame(sweep)


def _bits(folder: Path, texts: Sequence[str], scale: Scale) -> float:
    pieces = heldout_pieces(list(texts), TokenBytes.from_tokenizer(load_tokenizer(folder)), row_bytes=scale.row_bytes)
    return bits_per_byte(teacher_nats(load_model(folder, device=scale.device), pieces), pieces)["value"]


def sweep_rows(pair: str, sweep: pd.DataFrame) -> list[dict]:
    """The sweep as tidy rows."""
    return [{"pair": pair, "stderr": math.nan, "n": 1} | row for row in sweep.to_dict("records")]


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
