"""The ablation tables as data: a variant is one row of a table, and is trained by the same loop as every student.

A new row is one more line in a tuple here; docs/extending.md shows it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dbyte.distill import objectives
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.data import transformed_rows
from dbyte.distill.loader import Feed
from dbyte.distill.processes import Launch
from dbyte.distill.runs import Run, model_hash, noted
from dbyte.distill.steps import CORE, ENCODER, EVERYTHING, ROUTER, Group, Step, stage1, stage2
from dbyte.distill.teacher import teacher_run
from dbyte.distill.trainer import train
from dbyte.model.teacher import load_model, read_teacher
from dbyte.presets import Scale, TeacherShape
from dbyte.text.spans import TokenBytes


@dataclass(frozen=True)
class Variant:
    """A name, the steps that the student takes, and the arguments of StudentConfig that differ from the scale's.

    teacher: whose core, head, tokens and embeddings the student has, None: the scale's. predictions: a teacher with the
    same tokens, whose predictions Eq. 3 takes; None: `teacher` itself.
    """

    name: str
    steps: tuple[Step, ...]
    student: Mapping[str, object] = field(default_factory=dict)
    teacher: TeacherShape | str | None = None
    predictions: TeacherShape | str | None = None
    rate: float = 0.0  # what a sweep has multiplied the rates of the steps by, 0: they are of no sweep


def run_variant(
    scale: Scale, variant: Variant, *, seed: int, teacher_seed: int = 0, batch_rows: int | None = None
) -> list[Run]:
    """Train one variant, or load what is trained; returns one complete run per step. Shared steps are trained once.

    seed: the student's. batch_rows: rows of the student's updates, None: the scale's; teachers always have the scale's.
    """
    def folder(teacher: TeacherShape | str) -> Path:
        return teacher_run(replace(scale, teacher=teacher, continues=None), seed=teacher_seed)

    teacher = folder(variant.teacher) if variant.teacher else teacher_run(scale, seed=teacher_seed)
    changed = replace(scale, student={**scale.student, **variant.student}, teacher=str(teacher),
                      batch_rows=batch_rows or scale.batch_rows)
    return run_steps(changed, variant.steps, seed=seed, teacher_seed=teacher_seed, variant=variant.name,
                     predictions=folder(variant.predictions) if variant.predictions else None)


def sequence(scale: Scale, **changes: object) -> tuple[Step, Step, Step]:
    """Steps 1.1 to 1.3 by Eq. 2, Eq. 3 and Eq. 4 alone, each at the bytes of an ablation."""
    size = scale.ablation.step_bytes
    given = dict(align_bytes=size, distill_bytes=size, boundary_bytes=size, boundary_loss=False, snapshots=1)
    return stage1(**{**scale.stage1, **given, **changes})


def with_snapshots(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Return the variants with three snapshots, evenly spaced in each step: other runs, the same final weights."""
    return tuple(replace(variant, steps=tuple(replace(step, snapshots=3) for step in variant.steps))
                 for variant in variants)


def encoders(scale: Scale) -> tuple[Variant, ...]:
    """Table 5: step 1.1 alone, by other encoders of as many parameters; then controls and other sizes.

    Rates were chosen with Mamba2 and Muon at the small scales, so both also run by AdamW, as in the paper.
    """
    align = sequence(scale)[:1]
    adamw = sequence(scale, align_muon=0.0)[:1]
    attention = dict(encoder_mixer="attention")
    return (
        Variant("Mamba2", align),
        Variant("Transformer", align, attention),
        Variant("Mamba2, AdamW", adamw),
        Variant("Transformer, AdamW", adamw, attention),
        Variant("attention to 16 bytes", align, dict(encoder_mixer="attention", encoder_window=16)),
        Variant("convolution of 16 bytes", align, dict(encoder_mixer="convolution", encoder_window=16)),
        Variant("Mamba2, one layer", align, dict(encoder_layers=1)),
        Variant("Mamba2, twice the layers", align, dict(encoder_layers=2 * scale.student["encoder_layers"])),
        Variant("Mamba2, half the width", align, dict(byte_width=scale.student["byte_width"] // 2)),
    )


DEPTHS = (1, 2, 4)  # layers of an encoder


def encoder_scaling(scale: Scale) -> tuple[Variant, ...]:
    """Table 5 against depth and bytes: step 1.1 alone by encoders of Mamba2 and of a Transformer, at three budgets.

    At each depth both have as many parameters. The budgets are 1/24, 1/12 and 1/6 of the scale's largest dose, or of
    its step 1.1 if that reads more, each with a schedule of its own. A name ends with its budget.
    """
    most = max(scale.ablation.doses[-1] * scale.ablation.step_bytes, scale.stage1["align_bytes"])
    return tuple(
        Variant(f"{name}, {layers} layer{'s' * (layers > 1)}, {round(most / part)} bytes",
                sequence(scale, align_bytes=round(most / part), snapshots=0)[:1],
                dict(encoder_mixer=mixer, encoder_layers=layers))
        for name, mixer in (("Mamba2", "mamba2"), ("Transformer", "attention")) for layers in DEPTHS
        for part in (24, 12, 6))


def alignments(scale: Scale) -> tuple[Variant, ...]:
    """Table 3: steps 1.1 and 1.2 at equal bytes, with and without the first; then objectives of the authors' code.

    Where the encoder trains as in the paper, by AdamW, it has one rate in both steps, as section 6.1 says of this
    table; Table 13 has a fiftieth of it in step 1.2. Elsewhere the rates are the scale's: see `evidence.rate_matched`.
    """
    one_rate = {} if scale.stage1.get("encoder_muon") else {"encoder_rate": scale.stage1.get("align_rate", 1e-3)}
    align, distil, _ = sequence(scale, **one_rate)
    only = sequence(scale, distill_bytes=2 * scale.ablation.step_bytes, **one_rate)[1]
    return (
        Variant("align, then distil", (align, distil)),
        Variant("distil only", (only,)),
        Variant("align only, twice the bytes", sequence(scale, align_bytes=2 * scale.ablation.step_bytes)[:1]),
        Variant("reverse KL in 1.2", (align, replace(distil, objective=objectives.distill_reverse))),
        Variant("Jensen-Shannon in 1.2", (align, replace(distil, objective=objectives.distill_js))),
        Variant("mean in Eq. 2", (replace(align, objective=objectives.align_mean), distil)),
        Variant("no FFN in the encoder", (align, distil), dict(ffn_width=0)),
    )


# Of Eq. 2, Eq. 3 and Eq. 4 in the joint objective, one weight changed at a time. Left out are more of Eq. 3, which
# alone leaves the student near chance (Table 3), and less of Eq. 2 or of Eq. 4, which were far behind (docs/log.md).
JOINT_WEIGHTS = ((1, 1, 1), (10, 1, 1), (1, 0.1, 1), (1, 1, 10))


def orders(scale: Scale) -> tuple[Variant, ...]:
    """Section 4.2.1: the three steps in sequence, in other orders, and all at once by the joint objective.

    Step 1.1 has most of the bytes. All end with a little of step 1.3, so that no router is older than its encoder.
    """
    size = scale.ablation.step_bytes
    align, distil, boundary = sequence(scale, distill_bytes=size // 4, boundary_bytes=size // 4)
    refresh = replace(boundary, name="1.3 refresh", train_bytes=max(size // 6, 1), snapshots=0)
    groups = (align.groups[0], *distil.groups[1:], boundary.groups[0])  # encoder, core, router: each at its own rate
    joint = Step("1 joint", 1, objectives.joint(1, 1, 1), groups, size + 2 * (size // 4), warmup=distil.warmup,
                 floor=0.1)
    rows = {
        "1.1, 1.2, 1.3": (align, distil, boundary),
        "1.3, 1.1, 1.2": (boundary, align, distil),
        "1.3, 1.2, 1.1": (boundary, distil, align),
        **{f"joint, weights {a:g} {b:g} {c:g}": (replace(joint, objective=objectives.joint(a, b, c)),)
           for a, b, c in JOINT_WEIGHTS},
    }
    return tuple(Variant(name, (*steps, refresh)) for name, steps in rows.items())


OWN_SIZE, LARGER, OTHER_FAMILY = "own size", "larger", "other family"


def teacher_shapes(scale: Scale) -> dict[str, TeacherShape | str]:
    """The teachers of Table 10 by name: of one family in ascending size, the student's own first; then another family.

    Raises ValueError for a scale that names none.
    """
    chosen = scale.other_teachers()
    own, *between, largest = chosen.sizes or (chosen.own, chosen.larger)
    return {OWN_SIZE: own} | {f"between {number}": shape for number, shape in enumerate(between, start=1)} | {
        LARGER: largest, OTHER_FAMILY: chosen.other}


def teachers(scale: Scale) -> tuple[Variant, ...]:
    """Table 10: steps 1.1 to 1.3 by a teacher of the student's size and by larger ones; then by another family.

    All but the last have one core, one tokenizer and one step 1.1, which has three times the bytes of the others, so
    that Eq. 3 has room; the last has the core of its own teacher. ValueError for a scale that names no other teachers.
    """
    steps = sequence(scale, align_bytes=3 * scale.ablation.step_bytes, snapshots=0)
    shapes = teacher_shapes(scale)
    own, other = shapes.pop(OWN_SIZE), shapes.pop(OTHER_FAMILY)
    return (Variant(OWN_SIZE, steps, teacher=own),
            *(Variant(name, steps, teacher=own, predictions=shape) for name, shape in shapes.items()),
            Variant(OTHER_FAMILY, steps, teacher=other))


def byte_sft(scale: Scale) -> tuple[Variant, ...]:
    """Stage 2 after one Stage 1, as in the paper and with what the authors' code does differently.

    Confidence needs the boundary loss: without that loss the router does not train in step 2.2.
    """
    size = scale.ablation.step_bytes
    stage2_settings = {**scale.stage2, "head_bytes": size, "full_bytes": size}
    plain = sequence(scale) + stage2(**{**stage2_settings, "boundary_loss": False})
    routed = sequence(scale) + stage2(**{**stage2_settings, "boundary_loss": True})
    options = dict(router_suffixes=0)  # smoothing needs 0, and all rows continue one Stage 1
    return (
        Variant("plain", plain, options),
        Variant("boundary loss in 2.2", routed, options),
        Variant("boundary loss, confidence", routed, options | dict(confidence=True)),
        Variant("smoothing", plain, options | dict(smoothing=True)),
        Variant("all three, as released", routed, options | dict(smoothing=True, confidence=True)),
    )


OWN_SHARE = 0.25  # of the bytes of step 2.2: the last ones, along the boundaries that the student will use


def byte_targets(scale: Scale) -> tuple[Variant, ...]:
    """Stage 2 at the scale's bytes by what a byte is taught, which the paper does in the first way only.

    "labels": the next byte along the router's boundaries. The others end with that and begin along the teacher's
    tokens: "tokens" with the symbols of the text, the control for "dense", the teacher's distribution over them, and
    "mixed", half of each. All continue the curriculum's Stage 1.
    """
    begun = curriculum(scale)[:3]
    own = round(OWN_SHARE * scale.stage2["full_bytes"])
    along = {"full_bytes": scale.stage2["full_bytes"] - own, "own_bytes": own}
    return tuple(Variant(targets, (*begun, *stage2(**{**scale.stage2, **changes, "targets": targets})))
                 for targets, changes in (("labels", {"own_bytes": 0}), ("tokens", along), ("dense", along),
                                          ("mixed", along)))


NEW_DECODER = {"head_rate": 3, "head_muon": 10 / 3, "outer_rate": 4}  # rates of one that begins from nothing


def beginnings(scale: Scale) -> tuple[Variant, ...]:
    """Stage 2 at the scale's bytes by where its decoder begins: from the token head, or from nothing, as in the paper.

    If the scale's own begins from the token head, the other's rates are NEW_DECODER times as large. Both continue the
    curriculum's Stage 1.
    """
    begun = curriculum(scale)[:3]
    return tuple(Variant(name, (*begun, *stage2(**settings))) for name, settings in (
        ("from the token head", {**scale.stage2, "decoding": "prior"}), ("from nothing", from_nothing(scale).stage2)))


def from_nothing(scale: Scale) -> Scale:
    """The scale with a decoder that begins from nothing, at rates for it if its own begins from the token head."""
    nothing = {name: value for name, value in scale.stage2.items() if name != "decoding"}
    if scale.stage2.get("decoding") == "prior":
        nothing |= {name: factor * nothing[name] for name, factor in NEW_DECODER.items() if name in nothing}
    return replace(scale, stage2=nothing)


def resilient(scale: Scale, share: float) -> tuple[Variant, ...]:
    """Stage 2 with and without Eq. 4 in step 2.2, by the symbols of the text or the teacher's distribution over them.

    The router is frozen without Eq. 4. All continue the curriculum's Stage 1 and read a share of the scale's bytes,
    along the teacher's tokens, so that pairs differ in one thing alone.
    """
    begun = curriculum(scale)[:3]
    sizes = {name: round(share * scale.stage2[name]) for name in ("head_bytes", "full_bytes")} | {"own_bytes": 0}
    return tuple(Variant(name, (*begun, *stage2(**{**scale.stage2, **sizes, "boundary_loss": beside,
                                                   "targets": targets})))
                 for name, beside, targets in (
                     ("router frozen, cross-entropy", False, "tokens"), ("router frozen, dense", False, "dense"),
                     ("Eq. 4, cross-entropy", True, "tokens"), ("Eq. 4, dense", True, "dense")))


# -- Table 2: who writes the text that the teacher judges -------------------------------------------------------------


def on_policy(scale: Scale) -> tuple[Variant, ...]:
    """Table 2: a short Stage 1; then on-policy; and at equal updates two controls that the paper does not have.

    One judges rows of the corpus by Eq. 3, which is more of step 1.2; the other what the teacher wrote after the same
    prompts, so that only the writer differs. All of Stage 1 trains, with Eq. 4. ValueError for a scale without
    [on_policy].
    """
    policy = scale.on_policy
    if policy is None:
        raise ValueError(f"scale {scale.name} has no table [on_policy], which Table 2 needs: give its file one, "
                         "as dbyte/scales/small.toml has")
    stage1 = sequence(scale)
    everything = Group(ENCODER + ROUTER + CORE + ("token_head",), policy.rate)
    step = Step("1.4 on-policy", 1, objectives.on_policy(), (everything,),
                policy.updates * policy.rows * policy.row_bytes, warmup=0.03, policy=policy)
    of_teacher = replace(step, name="1.4 teacher-written", policy=replace(policy, teacher_share=1.0))
    of_corpus = replace(step, name="1.4 corpus", objective=objectives.on_policy(0.0),
                        policy=replace(policy, corpus_share=1.0))
    return (
        Variant("Stage 1", stage1),
        Variant("+ on-policy", (*stage1, step)),
        Variant("+ step 1.2 on the corpus", (*stage1, of_corpus)),
        Variant("+ teacher-written", (*stage1, of_teacher)),
    )


# -- Tables 7 and 8: other training text ------------------------------------------------------------------------------

# Above 1 the best that a router can say of a token's end before white space is "no boundary": p = 1 / (1 + weight).
PENALTY = 3.0


def boundary_learning(scale: Scale) -> tuple[Variant, ...]:
    """Table 7: step 1.3 as it is; with more bytes, the control; on trimmed text; and with the white space penalty.

    All continue the finished Stage 1 of the curriculum and train the router alone, on equally many further bytes.
    `denoising` is what the paper has not.
    """
    stage1 = curriculum(scale)[:3]
    more = replace(stage1[2], name="1.3 boundary, more", train_bytes=scale.ablation.step_bytes, snapshots=0)
    trim = replace(more, name="1.3 boundary, trimmed", text="trimmed")
    penalised = replace(more, name="1.3 boundary, penalised", objective=objectives.boundary_penalised(PENALTY))
    return (
        Variant("standard", stage1),
        Variant("standard, more bytes", (*stage1, more)),
        Variant("Trim Data", (*stage1, trim)),
        Variant("Whitespace Penalty", (*stage1, penalised)),
    )


NOISY = 0.5  # of the rows: letters are replaced inside their tokens, see mixed_rows.py


def denoising(scale: Scale) -> tuple[Variant, Variant]:
    """The paper's open question on spaces: its control, and then with misspelt rows, whose targets are the clean ones.

    Both continue the finished Stage 1 by Eq. 2 and Eq. 4, encoder and router, on as many bytes as `boundary_learning`.
    A misspelt word is to have the boundaries and the embeddings of the clean one.
    """
    _, distil, boundary = stage1 = curriculum(scale)[:3]
    more = replace(boundary, name="1.1 align, more", objective=objectives.align_with_boundary,
                   groups=(distil.groups[0], *boundary.groups), train_bytes=scale.ablation.step_bytes, snapshots=0)
    return (Variant("encoder too, more bytes", (*stage1, more)),
            Variant("denoising", (*stage1, replace(more, name="1.1 denoise", noisy=NOISY))))


def perturbed_step(scale: Scale, stage: int) -> Step:
    """Table 8: fine-tuning of a stage (0: the teacher) on perturbed text, for the bytes of an ablation's second dose.

    Each is trained as it last was, by its own rates, which a sweep multiplies: Stage 1 as in step 1.2 and 1.3, but by
    its next token, along the teacher's tokens of the perturbed text, its head too; Stage 2 as in step 2.2; a teacher
    that was trained here at a third of its rates, another one at those of the core in step 1.2, the paper's 2e-5.
    """
    _, distil, boundary, _, full = curriculum(scale)
    core = next(group.rate for group in distil.groups if group.parts == CORE)
    shape = scale.teacher
    rates = (core, 0.0) if isinstance(shape, str) else (shape.rate / 3, shape.muon_rate / 3)
    objective, groups = {
        0: (objectives.token, (Group(EVERYTHING, *rates),)),
        1: (objectives.next_token, (distil.groups[0], Group(CORE + ("token_head",), core), boundary.groups[0])),
        2: (full.objective, full.groups),
    }[stage]
    return Step(f"{stage} perturbed", stage, objective, groups, second_dose(scale), warmup=distil.warmup,
                floor=distil.floor, text="perturbed")


def second_dose(scale: Scale) -> int:
    """The bytes of an ablation's second dose."""
    return round(scale.ablation.doses[1] * scale.ablation.step_bytes)


def perturbed_students(scale: Scale) -> tuple[Variant, Variant]:
    """Table 8: Stage 1 and Stage 2 of the curriculum, each then fine-tuned."""
    steps = curriculum(scale)
    return (Variant("stage1", (*steps[:3], perturbed_step(scale, 1))),
            Variant("stage2", (*steps, perturbed_step(scale, 2))))


def tuned_teacher(scale: Scale, step: Step, *, seed: int) -> Run:
    """Train the scale's finished teacher by one more step, on that step's text; or load it if that was done before."""
    launch = Launch(rows_at_once=scale.rows_at_once)
    folder = teacher_run(scale, seed=seed, launch=launch)
    config, tokenizer = read_teacher(folder)
    rows = transformed_rows(scale, step.text, TokenBytes.from_tokenizer(tokenizer), seed=seed,
                            max_bytes=step.train_bytes, positions=config.max_position_embeddings)
    run = Run({"from": model_hash(folder), "step": step.describe(), "data": rows.hash, "seed": seed,
               "batch_rows": scale.batch_rows, "precision": scale.precision}, notes=noted(scale.name))
    if not run.is_complete():
        train(run, step, Feed(rows, scale.batch_rows, seed), model=load_model(folder), device=scale.device,
              precision=scale.precision, launch=launch, save_extra=tokenizer.save_pretrained)
    return run
