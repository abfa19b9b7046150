"""`train`: teacher and student, in one process or many."""

import argparse
from typing import TYPE_CHECKING

from dbyte.commands.scales import declare_scale

if TYPE_CHECKING:
    from dbyte.distill.steps import Step
    from dbyte.presets import Scale


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("train", help="train teacher and student, in one process or many (torchrun, "
                                                "accelerate launch); what is complete is not trained again")
    declare_scale(command, "smoke")
    command.add_argument("--through", default="2.2", metavar="STEP", help="the last step: teacher, 1.1 .. 2.2")
    command.add_argument("--teacher", help="a folder or hub name instead of the scale's teacher")
    command.add_argument("--corpus", action="append", default=[], metavar="NAME=BYTES",
                         help="in place of the scale's, repeatable: world, world_full, echoes, lookups, pydocs, "
                              "file:PATH or hub:NAME")
    command.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    command.add_argument("--device", help="cpu or cuda instead of the scale's (or of $DBYTE_DEVICE)")
    command.add_argument("--precision", help="fp32 or bf16 instead of the scale's")
    command.add_argument("--batch-rows", type=int, help="rows of an update, over all processes")
    command.add_argument("--row-bytes", type=int, help="bytes of a row")
    command.add_argument("--processes", type=int, help="how many must take part; another number is an error")
    command.add_argument("--sharding", default="ddp", help="ddp: the full model in each process; fsdp2: a share of it")
    command.add_argument("--rows-at-once", type=int,
                         help="rows of a micro-batch in each process: less memory, and `plan` tells how many fit")
    command.add_argument("--recompute", action="store_true", help="keep no activations inside blocks (less memory)")
    command.add_argument("--backend", help="of Mamba2: torch; fast, in fp32 on a CPU (the default there); or triton, "
                                           "if its kernels and a GPU are there")
    command.add_argument("--tensorboard", action="store_true", help="write TensorBoard files next to metrics.jsonl")
    command.add_argument("--dry-run", action="store_true",
                         help="print which runs are complete and which would be trained, and train nothing")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from dbyte import presets

    scale = presets.changed(presets.scale(arguments.scale, arguments.settings), teacher=arguments.teacher,
                            corpora=dict(map(corpus_amount, arguments.corpus)), device=arguments.device,
                            precision=arguments.precision, batch_rows=arguments.batch_rows,
                            row_bytes=arguments.row_bytes)
    from dbyte.distill.curriculum import curriculum, run_steps
    from dbyte.distill.processes import Launch, join
    from dbyte.distill.progress import summary_writer
    from dbyte.distill.sizes import check_sizes
    from dbyte.distill.steps import check_sharding
    from dbyte.distill.teacher import teacher_run, teacher_step
    from dbyte.model.adapters import check_peft
    from dbyte.model.backends import training_backend

    check_sizes(scale)
    steps = curriculum(scale)
    names = ["teacher", *(step.name[:3] for step in steps)]
    if arguments.through not in names:
        raise ValueError(f"--through must be one of {', '.join(names)}, found {arguments.through!r}")
    chosen = steps[: names.index(arguments.through)]
    if arguments.dry_run:
        print(plan(scale, chosen, seed=arguments.seed))
        return 0
    at_once = scale.rows_at_once if arguments.rows_at_once is None else arguments.rows_at_once
    if at_once is not None and at_once < 1:
        raise ValueError(f"--rows-at-once must be at least 1, found {at_once}")
    of_teacher = () if isinstance(scale.teacher, str) else (teacher_step(scale.teacher),)
    check_sharding(of_teacher + chosen, arguments.sharding)
    training_backend(arguments.backend, device=scale.device, precision=scale.precision)
    if any(group.lora for step in chosen for group in step.groups):
        check_peft()
    if arguments.tensorboard:
        summary_writer()
    launch = Launch(join(scale.device, expected=arguments.processes, sharding=arguments.sharding),
                    rows_at_once=at_once, recompute=arguments.recompute, backend=arguments.backend,
                    tensorboard=arguments.tensorboard)
    folders = [teacher_run(scale, seed=arguments.seed, launch=launch)]
    if chosen:
        folders += [run.model_folder for run in run_steps(scale, chosen, seed=arguments.seed, launch=launch)]
    if launch.processes.is_first:
        print("\n".join(f"{name:8} {folder}" for name, folder in zip(names, folders, strict=False)))
    return 0


def plan(scale: "Scale", steps: "tuple[Step, ...]", *, seed: int) -> str:
    """The table of the runs that training would load or make; nothing is trained."""
    import pandas as pd

    from dbyte.distill.curriculum import plan_steps
    from dbyte.distill.teacher import plan_teacher

    planned = plan_teacher(scale, seed=seed) + (plan_steps(scale, steps, seed=seed) if steps else ())
    rows = [(one.step.name, one.address or "after the teacher", one.parent or "", one.step.train_bytes / 1e6,
             one.status) for one in planned]
    table = pd.DataFrame(rows, columns=["step", "run", "from", "MB", "status"])
    new = table[table["status"] != "complete"]
    return (f"{table.to_string(index=False, float_format='{:,.2f}'.format)}\n"
            f"{len(new)} of {len(table)} runs would be trained, on {new['MB'].sum():,.2f} MB")


def corpus_amount(text: str) -> tuple[str, int]:
    """NAME=BYTES, as in `world=8_000_000` or `file:notes=5e6`; ValueError otherwise."""
    name, _, size = text.rpartition("=")
    try:
        return name, amount(size)
    except (ValueError, OverflowError):
        raise ValueError(f"--corpus expects NAME=BYTES, such as pydocs=5e6, found {text!r}") from None


def amount(text: str) -> int:
    """A whole number, also as 5e6 or 5_000_000; ValueError or OverflowError otherwise."""
    return int(float(text.replace("_", "")))
