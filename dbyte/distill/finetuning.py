"""Table 8 (appendix A.3): teacher, Stage 1 and Stage 2 fine-tuned on perturbed text, at equal bytes and one rate.

The rate is that of the core in step 1.2, which at the paper's sizes is the 2e-5 that the paper fine-tunes at. What
the model writes with is trained, by AdamW: Stage 1 by its next token, along the teacher's tokens of the perturbed text,
with Eq. 4 beside it; Stage 2 as in step 2.2; the teacher as it was trained.
"""

from dbyte.distill import objectives
from dbyte.distill.curriculum import curriculum
from dbyte.distill.data import changed_rows
from dbyte.distill.feed import Feed
from dbyte.distill.runs import Run, model_hash
from dbyte.distill.steps import CORE, ENCODER, EVERYTHING, ROUTER, Group, Step
from dbyte.distill.teacher import teacher_run
from dbyte.distill.trainer import Launch, train
from dbyte.distill.variants import Variant
from dbyte.model.teacher import load_teacher
from dbyte.presets import Scale
from dbyte.text.spans import TokenBytes

HEAD = ("token_head",)


def perturbed_step(scale: Scale, stage: int) -> Step:
    """The step of a stage (0: the teacher) on perturbed text."""
    distil, full = curriculum(scale)[1], curriculum(scale)[4]
    objective = {0: objectives.token, 1: objectives.next_token, 2: full.objective}[stage]
    parts = {0: EVERYTHING, 1: ENCODER + ROUTER + CORE + HEAD, 2: full.groups[0].parts + CORE}[stage]
    rate = next(group.rate for group in distil.groups if group.parts == CORE)
    return Step(f"{stage} perturbed", stage, objective, (Group(parts, rate),), scale.ablation.step_bytes,
                distil.warmup, distil.floor, text="perturbed")


def perturbed_students(scale: Scale) -> tuple[Variant, Variant]:
    """Stage 1 and Stage 2 of the curriculum, each then fine-tuned."""
    steps = curriculum(scale)
    return (Variant("stage1", (*steps[:3], perturbed_step(scale, 1))),
            Variant("stage2", (*steps, perturbed_step(scale, 2))))


def perturbed_teacher(scale: Scale, *, seed: int, launch: Launch | None = None) -> Run:
    """Fine-tune the scale's teacher, or load it if that was done before."""
    launch = launch or Launch(rows_at_once=scale.rows_at_once)
    step, folder = perturbed_step(scale, 0), teacher_run(scale, seed=seed, launch=launch)
    model, tokenizer = load_teacher(folder)
    rows = changed_rows(scale, step.text, TokenBytes.from_tokenizer(tokenizer), seed=seed, max_bytes=step.train_bytes,
                        positions=model.config.max_position_embeddings)
    run = Run({"from": model_hash(folder), "step": step.describe(), "data": rows.hash, "seed": seed,
               "batch_rows": scale.batch_rows, "precision": scale.precision})
    if not run.is_complete():
        train(run, step, Feed(rows, scale.batch_rows, seed), model=model, device=scale.device,
              precision=scale.precision, launch=launch, save_extra=lambda folder: tokenizer.save_pretrained(folder))
    return run
