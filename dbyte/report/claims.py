"""The claims of the paper's abstract, sections 5 and 6 and appendices A to D, as data, and their verdicts.

What the paper says is in our words; its numbers come from published/, ours from results/<scale>/. A threshold is zero
(which of two is ahead), a number that the paper prints, one that the results name, or one of the two below.

A new claim is one more `yield Claim(...)`: a name for the figure, where the paper says it, our words, the notebook, and
what rows of its results decide it. Until these exist, it counts as not yet measured.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

import pandas as pd

from dbyte import presets
from dbyte.paths import NOTEBOOKS, RESULTS
from dbyte.report import audit
from dbyte.report.judging import (
    UNMEASURED,
    VERDICTS,
    Claim,
    Criterion,
    Measure,
    Row,
    judge,
    kept,
    reader,
    row,
    share,
    total,
)
from dbyte.report.published import quoted
from dbyte.report.tables import BENCHMARKS

FEW_WRONG = 97.0  # percent F1: the paper calls its router exceptionally accurate and prints no number
MOST = 50.0  # percent: "most of the teacher's performance" says no more than this
STAGE1 = "01_stage1_curriculum"
STAGE2 = "02_stage2_byte_sft"
ON_POLICY = "03_on_policy"
ALIGNMENT = "04_ablation_alignment"
ENCODER = "05_ablation_encoder"
DECODING = "06_decoding_strategies"
BOUNDARIES = "07_boundary_visualization"
ROBUSTNESS = "08_robustness"
ROUTER = "09_router"
SCALE = "10_teacher_scale"
BASELINES = "11_baselines"
ORDER = "14_curriculum_order"


def _cell(table: str, line: str, column: str) -> float:
    return float(audit.lines(table)[line][column])


def _ahead(table: str, one: str, other: str, column: str | None = None) -> float:
    """One published line minus another in a column, or on average over the benchmarks."""
    first, second = (audit.lines(table)[name] for name in (one, other))
    shared = [column] if column else [name for name in BENCHMARKS if name in first]
    return fmean(float(first[name]) - float(second[name]) for name in shared)


def _quoted(name: str) -> float:
    return float(quoted().set_index("id").at[name, "printed"])


def _worst_drop(stage: str) -> float:
    """The larger of the two average drops that Table 1 prints for a stage of the paper's method."""
    return max(_cell("table01_main", f"{model}, {stage}", "avg_drop") for model in (audit.LLAMA, audit.QWEN))


def _difference(file: str, what: str, task: str = "average", **side: object) -> Criterion:
    """A row of a results file of differences."""
    return Criterion(row(f"{file}_difference", what=what, task=task), **side)


def _in_each(
    corpora: Iterable[str], file: str, *, threshold: float | None = 0.0, part: str = "", **where: str
) -> tuple[Criterion, ...]:
    """Return one criterion for each corpus, on equal rows of `file`."""
    return tuple(Criterion(row(file, corpus=corpus, **where), threshold=threshold, part=f"{part}{corpus},")
                 for corpus in corpora)


def _lost_under_drop(corpus: str) -> Measure:
    """F1 of the router on text with Drop minus that on clean text."""
    noisy, clean = (Row("boundary_kinds", {"corpus": corpus, "text": text, "kind": "all"})
                    for text in ("drop", "clean"))
    return total((1.0, noisy), (-1.0, clean))


def _dynamics(task: str, step: str, pick: str | None = "last") -> Row:
    return Row("dynamics", {"model": "student", "task": task, "step": step}, pick)


def _gain(task: str) -> tuple[tuple[float, Row], tuple[float, Row]]:
    """What step 1.2 adds on a task: its last measurement minus step 1.1's last."""
    return (1.0, _dynamics(task, "1.2")), (-1.0, _dynamics(task, "1.1"))


def _what_is_kept(corpora: Sequence[str]) -> Iterable[Claim]:
    """Abstract and section 5: what is kept, with how few bytes, and what each step adds."""
    kept_of_mmlu = _quoted("MMLU kept Llama")
    table1 = "table01_main"
    yield Claim("keeps most", "Abstract; Table 1", "the byte-to-byte student keeps most of its teacher's accuracy",
                STAGE2, (Criterion(kept("main", "stage2"), threshold=MOST),), "%")
    yield Claim("keeps as much as printed", "Section 1; Table 1", "it keeps more than the share of MMLU that the paper "
                "gives (here: of the average over all columns)", STAGE2,
                (Criterion(kept("main", "stage2"), threshold=kept_of_mmlu),), "%",
                100 * _cell(table1, f"{audit.LLAMA}, stage2", "MMLU")
                / _cell(table1, f"{audit.LLAMA}, teacher", "MMLU"))
    yield Claim("few bytes", "Abstract; Table 13", "distilling takes far fewer bytes than training a byte model anew",
                BASELINES, unit="billion bytes", paper=_quoted("training bytes"))
    yield Claim("families", "Abstract; Table 1", "the recipe works for teachers of several model families (here: "
                "Stage 1 keeps most of a Llama's and of a Qwen3's accuracy)", SCALE,
                tuple(Criterion(row("teacher_scale_retention", model=model), threshold=MOST, part=f"{family},")
                      for family, model in (("Llama", "own size"), ("Qwen3", "other family"))), "%")
    yield Claim("stage 1 drop", "5.2.1; Table 1", "Stage 1 loses no more points on average than in the paper", STAGE2,
                (_difference("main", "teacher - stage1", direction="below", threshold=_worst_drop("stage1")),),
                paper=_worst_drop("stage1"))
    yield Claim("stage 1 baselines", "5.2.1; Table 1", "Stage 1 loses less than BLT, ALM and H-Net distillation do",
                BASELINES, paper=_worst_drop("stage1"))
    yield Claim("a sixth of the bytes", "5.2.1; Table 1", "Stage 1 matches H-Net distillation on a sixth of the bytes",
                BASELINES, unit="times", paper=_quoted("fold"))
    yield Claim("alignment is rapid", "5.2.1; Figure 2", "step 1.1 alone brings PIQA back to the teacher's (here: to "
                "the share that counts as kept)", STAGE1,
                (Criterion(share(_dynamics("PIQA", "1.1"), Row("dynamics", {"model": "teacher", "task": "PIQA"})),
                           threshold=kept_of_mmlu),), "%")
    yield Claim("reasoning needs 1.2", "5.2.1; Figure 2", "reasoning still gains in step 1.2 (here: GSM8K)", STAGE1,
                (Criterion(total(*_gain("GSM8K"))),))
    yield Claim("more than the simple", "5.2.1; Figure 2", "in step 1.2 reasoning gains more than surface tasks, which "
                "have levelled off (here: GSM8K against PIQA)", STAGE1,
                (Criterion(total(*_gain("GSM8K"), *((-weight, term) for weight, term in _gain("PIQA")))),))
    yield Claim("stage 2 drop", "5.2.2; Table 1", "Stage 2 loses no more points on average than in the paper", STAGE2,
                (_difference("main", "teacher - stage2", direction="below", threshold=_worst_drop("stage2")),),
                paper=_worst_drop("stage2"))
    yield Claim("stage 2 costs", "Table 1", "writing bytes costs something: Stage 1 is ahead of Stage 2", STAGE2,
                (_difference("main", "stage1 - stage2"),),
                paper=_ahead(table1, f"{audit.LLAMA}, stage1", f"{audit.LLAMA}, stage2"))
    yield Claim("stage 2 baselines", "5.2.2; Table 1", "Stage 2 loses less than BLT, ALM and H-Net distillation do",
                BASELINES, paper=_worst_drop("stage2"))
    policy = "table02_on_policy"
    yield Claim("on-policy", "5.3; Table 2", "on-policy distillation raises Stage 1 on nearly every column", ON_POLICY,
                paper=_ahead(policy, "stage1+on-policy", "stage1"))
    yield Claim("on-policy MMLU", "5.3; Table 2", "it narrows the gap where the gap is widest, as on MMLU", ON_POLICY,
                paper=_ahead(policy, "stage1+on-policy", "stage1", "MMLU"))
    yield Claim("router is accurate", "5.3", "after step 1.3 the router's boundaries are almost exactly those of the "
                "teacher's tokenizer", STAGE1,
                _in_each(corpora, "boundaries_stage1", threshold=FEW_WRONG, part="F1, "), "%")


def _ablations() -> Iterable[Claim]:
    """Sections 4.2.1 and 6, appendices B and C: what happens without a part, or with another in its place."""
    table3, table4, table5, table9 = ("table03_ablation_alignment", "table04_decoding", "table05_ablation_encoder",
                                      "table09_router")
    with_it, without = "distill (align 10B then distill 10B)", "distill without alignment (20B)"
    yield Claim("alignment", "6.1; Table 3", "at equal bytes, aligning first is ahead of distilling alone", ALIGNMENT,
                (_difference("alignment", "align, then distil - distil only"),), paper=_ahead(table3, with_it, without))
    yield Claim("alignment LMB", "6.1; Table 3", "LMB falls far without alignment", ALIGNMENT,
                (_difference("alignment", "align, then distil - distil only", "LMB"),),
                paper=_ahead(table3, with_it, without, "LMB"))
    yield Claim("sequence", "4.2.1", "three steps in sequence are ahead of one joint objective with untuned weights",
                ORDER, (_difference("order", "1.1, 1.2, 1.3 - joint, weights 1 1 1"),))
    yield Claim("sequence spares tuning", "4.2.1", "the sequence does without the hand-tuning that the joint objective "
                "needs (here: it is ahead of the best of the weights swept, chosen on the reported items, which "
                "favours the joint objective)", ORDER, (_difference("order", "1.1, 1.2, 1.3 - best joint"),))
    yield Claim("JBP on GSM8K", "6.2; Table 4", "JBP is ahead of MBP where an answer is reasoned out byte by byte",
                DECODING, (Criterion(row("decoding_difference", what="GSM8K")),),
                paper=_ahead(table4, "JBP", "MBP", "GSM8K"))
    yield Claim("more than elsewhere", "6.2; Table 4", "that lead is larger than on the scored columns", DECODING,
                (Criterion(row("decoding_difference", what="GSM8K beyond the others")),))
    yield Claim("MBP elsewhere", "6.2; Table 4", "MBP is slightly ahead on several of the other columns", DECODING,
                tuple(Criterion(row("decoding_difference", what=task), "below", part=f"JBP - MBP, {task},")
                      for task in ("LMB", "PIQA", "ARC-E")), paper=-_quoted("MBP ahead on MMLU"), some=True)
    yield Claim("Mamba2", "6.3; Table 5", "a Mamba2 encoder aligns better than a Transformer with as many parameters",
                ENCODER, (_difference("encoder", "Mamba2 - Transformer"),),
                paper=_ahead(table5, "mamba2", "transformer"))
    yield Claim("Mamba2 on MMLU", "6.3; Table 5", "the Transformer encoder loses most on knowledge, as in MMLU",
                ENCODER, (_difference("encoder", "Mamba2 - Transformer", "MMLU"),),
                paper=_ahead(table5, "mamba2", "transformer", "MMLU"))
    yield Claim("integrated router", "Appendix B; Table 9", "a router inside the encoder is ahead of one of its own",
                ROUTER, (_difference("router", "integrated - split"),),
                paper=_ahead(table9, "integrated router", "split router"))
    yield Claim("integrated router LMB", "Appendix B; Table 9", "LMB shows it most", ROUTER,
                (_difference("router", "integrated - split", "LMB"),),
                paper=_ahead(table9, "integrated router", "split router", "LMB"))
    table10 = "table10_teacher_scale"
    own, larger = "Llama-3.2-1B, stage1", "Llama-3.2-1B, stage1 (teacher 3B)"
    for name, says, column, task in (
            ("larger teacher", "a larger teacher of the family gives a worse student than one of the student's size",
             None, "average"),
            ("larger teacher LMB", "LMB shows it most", "LMB", "LMB")):
        yield Claim(name, "Appendix C; Table 10", says, SCALE,
                    (_difference("teacher_scale", "own size - larger", task),),
                    paper=_ahead(table10, own, larger, column))


def _noise() -> Iterable[Claim]:
    """Appendix A.1: who withstands noise."""
    table6 = "table06_robustness"
    llama = {name: f"llama-3.2-3b/{name}" for name in ("baseline", "stage1", "stage2")}
    yield Claim("resists spaced letters", "A.1; Table 6", "under AntSpeak Stage 1 is ahead of its teacher", ROBUSTNESS,
                (_difference("robustness", "Stage 1 - teacher, antspeak"),),
                paper=_ahead(table6, llama["stage1"], llama["baseline"], "AntSpeak"))
    yield Claim("resists lost letters", "A.1; Table 6", "under Drop Stage 1 is ahead of its teacher", ROBUSTNESS,
                (_difference("robustness", "Stage 1 - teacher, drop"),),
                paper=_ahead(table6, llama["stage1"], llama["baseline"], "Drop"))
    yield Claim("stage 2 is fragile", "A.1; Table 6", "Stage 2 withstands noise less well than Stage 1", ROBUSTNESS,
                (_difference("robustness", "Stage 2 - Stage 1, noise average", direction="below"),),
                paper=_ahead(table6, llama["stage2"], llama["stage1"], audit.NOISY))
    yield Claim("learnt boundaries cost", "A.2; Table 6", "with its own boundaries, Stage 1 withstands noise less than "
                "its teacher", ROBUSTNESS,
                (_difference("robustness", "Stage 1 - teacher, noise average", direction="below"),),
                paper=_ahead(table6, llama["stage1"], llama["baseline"], audit.NOISY))


def _boundaries(corpora: Sequence[str]) -> Iterable[Claim]:
    """Appendix A.2: where the boundaries are, and two ways to make them depend less on spaces."""
    table7 = "table07_boundary_optimization"
    yield Claim("space bias", "A.2; Figure 3", "the router consistently puts a boundary before a space", BOUNDARIES,
                _in_each(corpora, "space_bias", threshold=None, text="clean", what="router cuts"), "%")
    yield Claim("depends on spaces", "A.2; Figure 3", "it finds the teacher's boundaries before spaces and misses "
                "others", BOUNDARIES, _in_each(corpora, "space_bias", text="clean", what="recall beyond elsewhere"))
    yield Claim("boundaries everywhere", "A.2; Figure 3", "between spaced letters (AntSpeak) it puts a boundary at "
                "every character", BOUNDARIES,
                _in_each(corpora, "space_bias", threshold=None, text="antspeak", what="router cuts"), "%")
    yield Claim("finds fewer units", "A.2; Figure 3", "under Drop it finds fewer of the text's units (here: F1 against "
                "the teacher's tokens of that text)", BOUNDARIES,
                tuple(Criterion(_lost_under_drop(corpus), "below", part=f"{corpus},") for corpus in corpora))
    yield Claim("trim data", "A.2; Table 7", "learning boundaries on text without spaces regains robustness (here: "
                "accuracy under noise)", ROBUSTNESS,
                (_difference("robustness", "Trim Data - control, noise average"),),
                paper=_ahead(table7, "trim data", "stage1", audit.NOISY))
    yield Claim("penalty is invariant", "A.2; Table 7", "a penalty on boundaries at spaces loses least to noise "
                "(Delta)", ROBUSTNESS,
                (_difference("robustness", "Whitespace Penalty - control, Delta", direction="below"),),
                paper=_ahead(table7, "space penalty", "stage1", audit.DELTA))
    yield Claim("penalty costs", "A.2; Table 7", "and it costs accuracy on clean text", ROBUSTNESS,
                (_difference("robustness", "Whitespace Penalty - control, clean", direction="below"),),
                paper=_ahead(table7, "space penalty", "stage1", audit.CLEAN))


def _tuning_on_noise() -> Iterable[Claim]:
    """Appendix A.3: what fine-tuning on noise gives the token model and the byte student."""
    table8 = "table08_perturbed_finetuning"

    def gain(who: str, column: str) -> float:
        return _ahead(table8, f"finetuned/{who}", f"origin/{who}", column)

    for name, says, kind, column in (
            ("tuned on noise", "fine-tuning on noise gives the byte student more than the token model", "noise average",
             audit.NOISY),
            ("learns spaced letters", "AntSpeak is learnt by the byte student, not the token model", "antspeak",
             "AntSpeak"),
            ("keeps clean text", "and on clean text the token model forgets more", "clean", audit.CLEAN)):
        yield Claim(name, "A.3; Table 8", says, ROBUSTNESS,
                    (_difference("robustness", f"stage1 - teacher, gain when tuned, {kind}"),),
                    paper=gain("distill", column) - gain("token", column))


def _baselines() -> Iterable[Claim]:
    """Appendix D: compared with Bolmo, H-Net and BLT at one billion parameters."""
    table11 = "table11_bolmo_comparison"
    yield Claim("less than Bolmo", "Appendix D; Table 11", "Stage 2 scores less than Bolmo on average", BASELINES,
                paper=_ahead(table11, "ours stage2", "Bolmo 1B", "Avg"))
    yield Claim("MMLU next to Bolmo", "Appendix D; Table 11", "on MMLU it is level with Bolmo or slightly ahead",
                BASELINES, paper=_ahead(table11, "ours stage2", "Bolmo 1B", "MMLU"))
    yield Claim("BLT is strongest", "Appendix D; Table 11", "BLT is the strongest of the byte models", BASELINES,
                paper=_ahead(table11, "BLT 1B", "ours stage1", "Avg"))


def every_claim(scale: str) -> tuple[Claim, ...]:
    """Return every claim in the order of the paper; boundaries are counted on held-out text of the scale's corpora."""
    corpora = sorted(name for name, _ in presets.scale(scale).corpora)
    return (*_what_is_kept(corpora), *_ablations(), *_noise(), *_boundaries(corpora), *_tuning_on_noise(),
            *_baselines())


def judged(*, scale: str, folder: Path = RESULTS, notebooks: Path = NOTEBOOKS) -> pd.DataFrame:
    """One row a claim: what it says, the paper's number, ours with interval, n, seeds, what was asked, verdict, cost.

    Numbers that do not exist are nan. `minutes` is what the claim's notebook took at its longest.
    """
    read = reader(scale, folder)
    minutes = _minutes(scale, folder)
    rows = []
    for claim in every_claim(scale):
        found = judge(claim, read, notebooks=notebooks)
        ours = found.measured
        rows.append({
            "id": claim.id, "where": claim.where, "claim": claim.says, "notebook": claim.notebook, "unit": claim.unit,
            "paper": claim.paper, "value": ours.value if ours else math.nan, "low": ours.low if ours else math.nan,
            "high": ours.high if ours else math.nan, "asked": found.criterion.asked(ours) if found.criterion else "",
            "direction": found.criterion.direction if found.criterion else "",
            "threshold": found.criterion.bound(ours) if found.criterion else math.nan,
            "n": ours.n if ours else 0, "seeds": len(ours.seeds) if ours else 0, "file": ours.file if ours else "",
            "verdict": found.verdict, "why": found.why, "minutes": minutes.get(claim.notebook, math.nan)})
    return pd.DataFrame(rows)


def _minutes(scale: str, folder: Path) -> dict[str, float]:
    try:
        times = reader(scale, folder)("notebook_times")
    except FileNotFoundError:
        return {}
    return dict(zip(times["notebook"], times["value"] / 60, strict=True))


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """`judged` as readers see it: text, points with their sign."""
    def number(unit: str, value: float, digits: str) -> str:
        return "" if math.isnan(value) else f"{value:{'+' if unit == 'points' else ''}{digits}}"

    return pd.DataFrame([{
        "claim": one.id, "in words": one.claim, "where": one.where, "paper": number(one.unit, one.paper, ".3g"),
        "ours": number(one.unit, one.value, ".1f"),
        "95 % interval": "" if math.isnan(one.low) else
        f"{number(one.unit, one.low, '.1f')} to {number(one.unit, one.high, '.1f')}",
        "unit": one.unit, "asked": one.asked, "n": one.n or "", "seeds": one.seeds or "", "verdict": one.verdict,
        "notebook": one.notebook[:2], "minutes": "" if math.isnan(one.minutes) else f"{one.minutes:.0f}",
    } for one in found.itertuples()])


def missing(found: pd.DataFrame) -> pd.DataFrame:
    """The claims without a verdict as readers see them: what the paper says, and why there is none."""
    rest = found[found["verdict"] == UNMEASURED]
    return shown(rest)[["claim", "in words", "where", "paper", "unit"]].assign(why=list(rest["why"]))


def counts(found: pd.DataFrame) -> str:
    """How many claims have each verdict, as a phrase."""
    tally = found["verdict"].value_counts()
    return ", ".join(f"{tally.get(verdict, 0)} {verdict}" for verdict in VERDICTS)
