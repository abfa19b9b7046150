"""`evaluate`: a student, its teacher or both on MiniBench, the paper's benchmarks or CUTE."""

import argparse
from pathlib import Path


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("evaluate", help="score a student, and its teacher on the same items")
    command.add_argument("--model", metavar="DIR", help="folder of a student, as `train` names it")
    command.add_argument("--teacher", metavar="DIR", help="a teacher's folder or hub name: compared item by item")
    command.add_argument("--tasks", default="mini", metavar="NAMES",
                         help="mini (default), mini_full, mini_cute, paper, cute, or columns such as PIQA,paper/ARC-E")
    command.add_argument("--data", type=Path, metavar="DIR",
                         help="local items of paper and cute (default: $DBYTE_DATA, or the hub)")
    command.add_argument("--boundaries", help="router (the default); at Stage 1 also tokenizer; at Stage 2 also own, "
                                              "the decoder's own, the only ones of a student with MBP")
    command.add_argument("--stage", type=int, help="1 or 2: an error if the student is of the other stage")
    command.add_argument("--beam", type=int, default=0, metavar="W",
                         help="Stage 2: sum over W more segmentations of each text per round: a tighter bound")
    command.add_argument("--limit", type=int, metavar="N", help="at most N items per task")
    command.add_argument("--seed", type=int, default=0, help="draws MiniBench's items and resamples (default 0)")
    command.add_argument("--rows", type=int, default=64, help="texts generated at a time (default 64)")
    command.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    command.add_argument("--out", type=Path, metavar="FILE", help="for the JSON (default: under runs/evaluated/)")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if not arguments.model and not arguments.teacher:
        raise ValueError("name what to evaluate: --model DIR for a student, --teacher DIR for a teacher, or both")
    if arguments.data is not None and not arguments.data.is_dir():
        raise FileNotFoundError(f"--data {arguments.data} is no folder: name the one that holds piqa/, arc/, cute/ ..")
    from dbyte_paper import evaluation
    from dbyte_tasks.paper import data_folder

    found = evaluation.evaluated(
        model=arguments.model, teacher=arguments.teacher, tasks=arguments.tasks.split(","),
        data=arguments.data or data_folder(),
        boundaries=arguments.boundaries, stage=arguments.stage, beam=arguments.beam, limit=arguments.limit,
        seed=arguments.seed, rows=arguments.rows, device=arguments.device)
    print(evaluation.table(found))
    print(f"JSON: {evaluation.write(found, arguments.out)}")
    return 0
