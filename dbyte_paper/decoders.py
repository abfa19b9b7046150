"""Table 4's two decoders, each trained until its own boundaries serve it no better. Notebook 06.

While it writes, MBP decides a boundary by a guess of the byte after the next one. On text where that byte cannot be
foreseen, such as a name of one of many people, no training teaches it; so Stage 2 of both decoders also reads text of
one person, and their bits on such text, along the boundaries that they set themselves, say when to stop. Both continue
one Stage 1, each at the best of its own rates, chosen by documents that are not reported.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dbyte.distill.curriculum import curriculum, execute, plan_steps
from dbyte.distill.runs import Run
from dbyte.distill.steps import Step, stage2
from dbyte.distill.teacher import teacher_run
from dbyte.presets import Scale
from dbyte_paper.domains import bits_on, joined, of_domain
from dbyte_paper.evidence import at_rate
from dbyte_paper.other_texts import Corpora
from dbyte_paper.variants import Variant
from dbyte_tasks.world.full import ALONE

DECODERS = {"JBP": None, "MBP": "mbp"}  # as tables call them, and `stage2`'s argument
MOST_ROUNDS = 4
FLAT = 5.0  # percent of its bits that a decoder must still gain in a round to go on
OWN = "stage2/own"


def stage2_corpora(scale: Scale) -> Corpora:
    """What Stage 2 reads: the scale's corpora and, where the world is among them, as much text of one person."""
    return scale.corpora + tuple((ALONE, amount) for name, amount in scale.corpora if name == "world")


def watched_corpus(scale: Scale) -> str:
    """The corpus whose bits say when to stop: the last that Stage 2 reads."""
    return stage2_corpora(scale)[-1][0]


def round_bytes(scale: Scale) -> int:
    """Bytes of a round: those of a step of the ablations, or the smallest dose if that is less."""
    return round(min(scale.ablation.doses[0], 1) * scale.ablation.step_bytes)


def rounds_of(scale: Scale, decoder: str, rounds: int) -> tuple[Step, ...]:
    """The scale's Stage 1; step 2.1; and so many rounds of step 2.2, each of the bytes of `round_bytes`."""
    size = round_bytes(scale)
    settings = {**scale.stage2, "head_bytes": size, "full_bytes": size, "own_bytes": 0, "decoding": DECODERS[decoder]}
    head, full = stage2(**settings)
    return (*curriculum(scale)[:3], head,
            *(replace(full, name=f"{full.name}, round {number}") for number in range(1, rounds + 1)))


def train(scale: Scale, decoder: str, rounds: int, *, factor: float, seed: int) -> list[Run]:
    """Train a decoder for so many rounds, or load it: a run for each step; factor: of the rates of its Stage 2."""
    taught = replace(scale, teacher=str(teacher_run(scale, seed=seed)))
    steps = rounds_of(scale, decoder, rounds)
    steps = steps[:3] + at_rate(Variant(decoder, steps[3:]), factor).steps
    planned = plan_steps(taught, steps, seed=seed, variant=decoder)
    if (corpora := stage2_corpora(scale)) != scale.corpora:
        planned = joined(planned, plan_steps(of_domain(taught, corpora), steps, seed=seed, variant=decoder))
    return execute(taught, planned, seed=seed)


def own_bits(scale: Scale, folder: Path, documents: Sequence[str]) -> dict:
    """Bits per byte of documents along the boundaries that a decoder sets itself, as `bits_per_byte` returns them."""
    return bits_on(folder, OWN, documents, row_bytes=scale.row_bytes, device=scale.device)


def until_flat(train: Callable[[int], list[Run]], bits: Callable[[Path], dict]) -> list[tuple[list[Run], dict]]:
    """Train 1, 2 .. rounds until the bits fall by less than FLAT percent, at most MOST_ROUNDS; each with its bits."""
    found = []
    for rounds in range(1, MOST_ROUNDS + 1):
        runs = train(rounds)
        found.append((runs, bits(runs[-1].model_folder)))
        if rounds > 1 and fallen(found) < FLAT:
            break
    return found


def fallen(found: Sequence[tuple[list[Run], dict]]) -> float:
    """By how many percent the bits of the last round are below those of the round before; nan of one round alone."""
    if len(found) < 2:
        return float("nan")
    before, after = (bits["value"] for _, bits in found[-2:])
    return 100 * (1 - after / before)


def stage2_bytes(runs: Sequence[Run]) -> int:
    """Bytes that the runs of Stage 2 have read."""
    return sum(run.facts()["train_bytes"] for run in runs[3:])


def round_rows(decoder: str, found: Sequence[tuple[list[Run], dict]], corpus: str) -> list[dict]:
    """Tidy rows of one decoder round by round: bits per byte, and by how many percent they still fell (`falling`)."""
    return [{"model": decoder, "round": number, "corpus": corpus, "value": bits["value"], "stderr": bits["stderr"],
             "n": bits["n"], "train_bytes": stage2_bytes(runs), "falling": fallen(found[:number])}
            for number, (runs, bits) in enumerate(found, start=1)]
