"""Two open questions on character noise (appendix A), asked of the students of a teacher that has read noise.

Can boundaries lean less on spaces without a loss on clean text, and why does Stage 2 withstand noise less well than
Stage 1? Every comparison is of equal bytes, each arm at the best of its own rates (evidence.py). An answer is a
paragraph that is made from results alone, by the goals and preconditions that stand here.

Legend: P pieces of text, N items.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dbyte.distill.runs import Run
from dbyte.evaluate import stats
from dbyte.evaluate.boundary_kinds import BEFORE_SPACE, Tally
from dbyte.evaluate.measure import CLEAN, Measurer
from dbyte.evaluate.noisy_lm import MIXED, Noise
from dbyte.evaluate.stats import AVERAGE, EQUAL, Z95, Estimate
from dbyte.presets import Scale
from dbyte_paper.evidence import at_best_rate, at_rate, best_factor, effects, sized
from dbyte_paper.published import entries
from dbyte_paper.under_noise import NOISE_AVERAGE, TOGETHER, Answers, Models, of
from dbyte_paper.variants import Variant, perturbed_step, perturbed_students, run_variant, tuned_teacher
from dbyte_tasks.column import Marks

CHOSEN_BY = Noise(MIXED, place="prompt")  # in front of the items by which rates are chosen
TUNING_SWEPT, STAGE2_SWEPT = 0.1, 0.2  # shares of the bytes that a sweep reads
STAGE2_SHARE = 0.3  # of the scale's bytes of Stage 2, for each of four students
ASKED = ("PIQA", "ARC-E")  # prose is near chance for teachers trained here, and is read for its bits per byte
TEXTS = (CLEAN, "drop", "repeat")  # on which boundaries are compared
F1, BIAS, BITS = "F1, %", "router - tokenizer before spaces, points", "bits per byte"
F1_LOST, BITS_SAVED = 0.5, 5.0  # an arm keeps clean text and gains: points of F1 at most, percent of bits at least
POINTS, NATS = "accuracy, points", "margin, nats"
STAGE1, STAGE1_CUTS = "Stage 1, router's", "Stage 1, tokenizer's"
HEAD, HEAD_CUTS, STAGE2 = "token head of Stage 2, router's", "token head of Stage 2, tokenizer's", "Stage 2"
# What Stage 2 loses to noise beyond Stage 1, in parts that add up: each a sum of what noise costs these readings.
PARTS = {"all": {STAGE2: 1, STAGE1: -1}, "encoder and core": {HEAD_CUTS: 1, STAGE1_CUTS: -1},
         "boundaries": {HEAD: 1, HEAD_CUTS: -1, STAGE1: -1, STAGE1_CUTS: 1}, "decoder": {STAGE2: 1, HEAD: -1}}
STILL_READS = 10.0  # points of clean accuracy that the token head of Stage 2 may have lost, to be read as a token head
FACTORS = ("Eq. 4", "dense")
UNASKED = "Not measured yet: notebook 22, which asks it, has not run at this scale."


# -- a teacher that has read noise, and its students ------------------------------------------------------------------


def tuned_on_noise(scale: Scale, *, seed: int) -> tuple[list[Variant], dict[str, list[Run]]]:
    """Table 8: the scale's teacher and students after fine-tuning on noise, each at its best rate, and their runs."""
    teacher = Variant("teacher", (perturbed_step(scale, 0),))

    def tuned(variant: Variant) -> Run:
        return tuned_teacher(scale, variant.steps[0], seed=seed)

    factor = best_factor(scale, lambda factor: tuned(sized(at_rate(teacher, factor), TUNING_SWEPT)).model_folder,
                         "token", seed=seed, noise=CHOSEN_BY)
    variants = [at_rate(teacher, factor)]
    for stage, student in enumerate(perturbed_students(scale), start=1):
        variants += at_best_rate(scale, [student], f"stage{stage}/router", seed=seed, share=TUNING_SWEPT,
                                 batch_rows=scale.batch_rows, since=len(student.steps) - 1, noise=CHOSEN_BY)
    runs = {"teacher": [tuned(variants[0])]}
    return variants, runs | {one.name: run_variant(scale, one, seed=seed, teacher_seed=seed) for one in variants[1:]}


def taught_by(folder: Path, variants: Sequence[Variant]) -> list[Variant]:
    """The variants with the teacher in a folder."""
    return [replace(variant, teacher=str(folder)) for variant in variants]


def best_router_arms(
    scale: Scale, variants: Sequence[Variant], *, seed: int
) -> tuple[list[Variant], dict[str, Run]]:
    """The variants of a finished Stage 1 at the best rate of their one further step, and the run of each."""
    best = at_best_rate(scale, variants, "stage1/router", seed=seed, batch_rows=scale.batch_rows, since=3,
                        noise=CHOSEN_BY)
    return best, {one.name: run_variant(scale, one, seed=seed, teacher_seed=seed)[-1] for one in best}


# -- boundaries, spaces, and what they cost ---------------------------------------------------------------------------


def bias_rows(measurer: Measurer, models: Mapping[str, Path], controls: Mapping[str, str]) -> list[dict]:
    """How each Stage 1 with its router does on each text next to its control: model, corpus, text, measure, value.

    over, over_stderr: F1 and space bias less the control's in points, bits in percent of the control's; paired by piece
    of text. n: pieces. Of the text with noise, boundaries are compared with the tokens of that very text.
    """
    rows = []
    for corpus, _ in measurer.scale.corpora:
        for text in TEXTS:
            noise = None if text == CLEAN else Noise(text, seed=measurer.seed)
            tallies = {name: measurer.tally(folder, corpus, text) for name, folder in models.items()}
            bits = {name: measurer.bits(folder, "stage1/router", corpus, noise) for name, folder in models.items()}
            for name, control in controls.items():
                where = {"model": name, "control": control, "corpus": corpus, "text": text}
                for measure, ratio in ((F1, _f1), (BIAS, _bias)):
                    own, other = (ratio(tallies[one]) for one in (name, control))
                    level, over = (stats.ratio_of_sums(own), stats.ratio_of_sums(own, other))
                    rows.append(where | {"measure": measure, "value": 100 * level.value, "stderr": 100 * level.stderr,
                                         "n": level.n, "over": 100 * over.value, "over_stderr": 100 * over.stderr})
                one = bits[name]
                over = stats.ratio_of_sums((one["nats_P"], bits[control]["nats_P"]))
                rows.append(where | {"measure": BITS, "value": one["value"], "stderr": one["stderr"], "n": one["n"],
                                     "over": 100 * (over.value - 1), "over_stderr": 100 * over.stderr})
    return rows


def _f1(found: Tally) -> stats.Ratio:
    hits_P, false_P, missed_P, _ = found.counts_PK4.sum(1).T
    return 2 * hits_P, 2 * hits_P + false_P + missed_P


def _bias(found: Tally) -> stats.Ratio:
    _, false_P, missed_P, all_P = found.counts_PK4[:, BEFORE_SPACE].T
    return false_P - missed_P, all_P


def over_control(bias: pd.DataFrame, model: str, measure: str, texts: Sequence[str], column: str = "over") -> Estimate:
    """A measure of `bias_rows` less its control's, or its level (`column` "value"), averaged over corpora and texts."""
    rows = bias[(bias["model"] == model) & (bias["measure"] == measure) & bias["text"].isin(texts)]
    error = "over_stderr" if column == "over" else "stderr"
    return Estimate(rows[column].mean(), math.hypot(*rows[error]) / len(rows), len(rows))


def on_spaces(bias: pd.DataFrame | None) -> str:
    """The answer to the first question, a paragraph; bias: of `bias_rows`, None: not measured.

    An arm reaches the goal where its whole intervals do: F1 on clean text at most F1_LOST below its control's, and at
    least BITS_SAVED percent fewer bits per byte under Drop and Repeat. Without a loss to noise there is nothing to say.
    """
    if bias is None:
        return UNASKED
    controls = dict(zip(bias["model"], bias["control"], strict=True))
    first = next(model for model, control in controls.items() if model == control)
    own = over_control(bias, first, BIAS, [CLEAN], "value")
    clean, noisy = (over_control(bias, first, BITS, texts, "value").value for texts in ([CLEAN], TEXTS[1:]))
    lost = 100 * (noisy / clean - 1)
    said = [f"On clean text the router of the control puts a boundary before a space {told(own, 'points')} more often "
            "than the tokenizer, " + ("a bias of its own." if own.value - Z95 * own.stderr > 0 else
                                      "which is no bias of its own.")]
    if lost < BITS_SAVED:
        return " ".join([*said, f"Drop and Repeat cost it {lost:.1f} % of bits per byte, too few to save "
                                f"{BITS_SAVED:g} % of: what follows from the arms is uninformative."])
    said.append(f"Drop and Repeat raise its bits per byte by {lost:.1f} %.")
    reached = []
    for model, control in controls.items():
        if model == control:
            continue
        kept, saved = (over_control(bias, model, *asked) for asked in ((F1, [CLEAN]), (BITS, TEXTS[1:])))
        said.append(f"`{model}` against `{control}`: {told(kept, 'points')} of F1 on clean text, {told(saved, '%')} of "
                    "bits per byte under noise.")
        if kept.value - Z95 * kept.stderr > -F1_LOST and saved.value + Z95 * saved.stderr < -BITS_SAVED:
            reached.append(f"`{model}`")
    said.append(f"The goal, at most {F1_LOST:g} points of F1 for {BITS_SAVED:g} % of bits, is reached by "
                f"{', '.join(reached) or 'none'}.")
    return " ".join(said)


def told(found: Estimate, unit: str) -> str:
    """A number with its sign, its unit and its interval of 95 %."""
    half = Z95 * found.stderr
    return f"{found.value:+.1f} {unit} ({found.value - half:+.1f} to {found.value + half:+.1f})"


# -- why Stage 2 loses more to noise ----------------------------------------------------------------------------------


def readings(stage1: Path, stage2: Path) -> Models:
    """Stage 1 and the token head that Stage 2 still has, along both kinds of boundaries, and Stage 2 itself."""
    return {STAGE1_CUTS: (stage1, "stage1/tokenizer"), STAGE1: (stage1, "stage1/router"),
            HEAD_CUTS: (stage2, "stage1/tokenizer"), HEAD: (stage2, "stage1/router"), STAGE2: (stage2, "stage2/router")}


def costs(found: Answers) -> Answers:
    """What noise costs each item: the clean answer less the noise average."""
    noisy = of(NOISE_AVERAGE, found)
    return {task: {CLEAN: kinds[CLEAN] - np.asarray(noisy[task]), TOGETHER: kinds.get(TOGETHER, ())}
            for task, kinds in found.items()}


def part_rows(measure: str, found: Mapping[str, Answers]) -> list[dict]:
    """PARTS of what Stage 2 loses to noise beyond Stage 1: part, measure, value, stderr, n, low, high; above 0: a loss.

    found: for each reading its answers (in points) or margins (in nats). Paired by item, errors over clusters.
    """
    unit = 100 if measure == POINTS else 1
    cost = {name: costs(each) for name, each in found.items()}
    rows = []
    for part, signs in PARTS.items():
        sums = {task: {CLEAN: sum(sign * cost[name][task][CLEAN] for name, sign in signs.items()),
                       TOGETHER: kinds[TOGETHER]} for task, kinds in cost[STAGE1].items()}
        means = [stats.mean_of_items(each) for each in of(CLEAN, sums).values()]
        value = unit * float(np.mean([mean.value for mean in means]))
        error = unit * math.hypot(*(mean.stderr for mean in means)) / len(means)
        rows.append(_part(part, measure, value, error, sum(mean.n for mean in means)))
    return rows


def bits_part_rows(measurer: Measurer, models: Models) -> list[dict]:
    """PARTS in bits per byte of text under mixed noise, averaged over corpora; errors over pieces of text."""
    def said(corpus: str, noise: Noise | None) -> dict[str, dict]:
        return {name: measurer.bits(*how, corpus, noise) for name, how in models.items()}

    mixed = Noise(MIXED, seed=measurer.seed)
    texts = [(sign, said(corpus, noise)) for corpus, _ in measurer.scale.corpora
             for sign, noise in ((1, mixed), (-1, None))]
    rows = []
    for part, signs in PARTS.items():
        value = 0.0
        variance = 0.0
        for over_clean, found in texts:
            one = found[STAGE1]
            nats_P = sum(sign * np.asarray(found[name]["nats_P"]) for name, sign in signs.items())
            value += over_clean * nats_P.sum() / one["text_bytes"]
            variance += len(nats_P) * nats_P.var(ddof=1) / one["text_bytes"] ** 2
        unit = 2 / len(texts) / math.log(2)
        rows.append(_part(part, BITS, unit * value, unit * math.sqrt(variance), sum(each[STAGE1]["n"]
                                                                                    for _, each in texts)))
    return rows


def _part(part: str, measure: str, value: float, error: float, n: int) -> dict:
    return {"part": part, "measure": measure, "value": value, "stderr": error, "n": n, "low": value - Z95 * error,
            "high": value + Z95 * error}


def effect_rows(found: Mapping[str, Answers]) -> list[dict]:
    """What each of FACTORS changes, in points: what noise costs, and clean accuracy; what, outcome, value, low, high.

    found: answers of the four students of `variants.resilient`. A cost lies in [-1, 1] and half of it plus 1 in [0, 1].
    """
    rows = []
    for outcome, unit, columns in (
        ("cost of noise", 2, [{task: Marks.in_clusters((1 + kinds[CLEAN]) / 2, kinds[TOGETHER])
                               for task, kinds in costs(each).items()} for each in found.values()]),
        ("clean", 1, [of(CLEAN, each) for each in found.values()]),
    ):
        for row in effects(columns, FACTORS):
            scaled = {name: unit * row[name] for name in ("value", "stderr", "low", "high")}
            rows.append(row | scaled | {"outcome": outcome, "verdict": stats.verdict(scaled["low"], scaled["high"])})
    return rows


def on_stage2(parts: pd.DataFrame | None, probe: pd.DataFrame | None, found: pd.DataFrame | None,
              score: pd.DataFrame | None) -> str:
    """The answer to the second question, a paragraph; None: not measured.

    parts: of `part_rows` and `bits_part_rows`. probe: noise_rows of the readings. found: of `effect_rows`. score: Eq. 5
    of the teacher. A measure says where Stage 2 loses only if it loses at all: its interval of "all" lies above 0.
    """
    if parts is None or probe is None or found is None:
        return UNASKED
    said = []
    for measure, rows in parts.groupby("measure", sort=False):
        by_part = rows.set_index("part")
        total = by_part.loc["all"]
        whole = f"By {measure}, Stage 2 loses {_interval(total)} more to noise than Stage 1"
        if total.low <= 0:
            said.append(f"{whole}: nothing to be told apart.")
            continue
        each = by_part.drop("all")
        sure = [name for name, row in each.iterrows() if row.low > 0]
        listed = ", ".join(f"{name} {_interval(row)}" for name, row in each.iterrows())
        said.append(f"{whole}: {listed}. Above zero: {', '.join(sure) or 'none of them alone'}.")
    clean = probe[(probe["task"] == AVERAGE) & (probe["kind"] == CLEAN)].set_index("model")["value"]
    gone = clean[STAGE1_CUTS] - clean[HEAD_CUTS]
    if gone > STILL_READS:
        said.append(f"The token head of Stage 2 has lost {gone:.1f} points on clean text, so what is said of encoder "
                    "and core may be the head's.")
    left = score[(score["model"] == "teacher") & (score["task"] == AVERAGE)] if score is not None and len(score) else ()
    if not len(left) or left["value"].iloc[0] <= entries("claims", "fair")["noise"]["above"]:
        said.append("The teacher is near its floor under noise, so accuracies are uninformative here; margins and bits "
                    "have no floor.")
    for row in found[found["outcome"] == "cost of noise"].itertuples():
        word = ("lowers" if row.high < 0 else "raises" if row.low > 0 else
                "does not change" if -EQUAL < row.low and row.high < EQUAL else "is not shown to change")
        said.append(f"In Stage 2, {NAMES[row.what]} {word} what noise costs: {_interval(row)} points.")
    return " ".join(said)


NAMES = {"Eq. 4": "training the router beside (Eq. 4)", "dense": "the teacher's distribution as the target"}


def _interval(row) -> str:
    return f"{row.value:+.2f} ({row.low:+.2f} to {row.high:+.2f})"


def open_questions(read) -> Iterator[str]:
    """Yield a section of the report; read: the name of results -> its rows, None where there are none."""
    yield "## Two open questions"
    yield f"**Can boundaries lean less on spaces without a loss?** {on_spaces(read('resilience_bias'))}"
    asked = (read(name) for name in ("resilience_parts", "resilience_probe", "resilience_effects", "robustness_score"))
    yield f"**Why does Stage 2 withstand noise less well?** {on_stage2(*asked)}"
