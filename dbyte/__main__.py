"""The command line, `python -m dbyte COMMAND`: one pair of functions a command, one to declare it and one to run it.

Heavy imports belong into the function that runs a command, so that `--help` answers at once.
"""

import argparse
import ast
import sys
from pathlib import Path

NOTEBOOK_PACKAGES = ("papermill", "jupytext", "nbformat", "nbclient", "ipykernel")


def declare_reproduce(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("reproduce", help="run the notebooks: results, tables and figures at one scale")
    command.add_argument("--scale", default="smoke", help="smoke (minutes, CPU), small (an hour, CPU), gpu or paper")
    command.add_argument("--only", metavar="NN[,NN]", help="some notebooks, such as 01 or 01,02")
    command.add_argument("--seed", type=int, default=0, help="of everything that is drawn at random (default 0)")
    command.add_argument("--out", type=Path, help="folder of the executed notebooks (default runs/notebooks/SCALE)")
    command.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                         help="one more parameter of the notebooks, which must all have it")
    command.set_defaults(run=run_reproduce)


def literal(text: str) -> object:
    """Return the Python literal that `text` spells, or the text itself: `3` is a number, `cuda` is a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def run_reproduce(arguments: argparse.Namespace) -> int:
    from dbyte.reproduce import reproduce

    extra = {name: literal(value) for name, value in arguments.parameter}
    return reproduce(arguments.scale, only=arguments.only, out=arguments.out, seed=arguments.seed, extra=extra)


def declare_notebooks(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("notebooks", help="check that each .ipynb agrees with its script, or write it anew")
    command.add_argument("--write", action="store_true", help="write what differs, outputs of unchanged cells kept")
    command.set_defaults(run=run_notebooks)


def run_notebooks(arguments: argparse.Namespace) -> int:
    from dbyte.pairing import differences, find_scripts, read_notebook, read_script, sync
    from dbyte.paths import NOTEBOOKS

    status = 0
    for script in find_scripts(NOTEBOOKS):
        paired = script.with_suffix(".ipynb")
        if arguments.write:
            print(f"{paired.name}: {'written' if sync(script) else 'in step'}")
            continue
        found = differences(read_script(script), read_notebook(paired)) if paired.exists() else ["it is missing"]
        print("\n".join(f"{paired.name}: {line}" for line in found) or f"{paired.name}: in step")
        status |= bool(found)
    return status


def declare_readme(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "readme", help="check that the README's numbers are those of results/small, or write them")
    command.add_argument("--write", action="store_true", help="write what differs")
    command.set_defaults(run=run_readme)


def run_readme(arguments: argparse.Namespace) -> int:
    from dbyte.report.readme import readme

    agrees = readme(write=arguments.write)
    print("README.md agrees with results/small" if agrees
          else "README.md differs: run `python -m dbyte readme --write`")
    return 0 if agrees else 1


def declare_plan(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "plan", help="parameters, FLOPs, hours and memory of a scale's curriculum, without a download")
    command.add_argument("--scale", default="paper", help="smoke, small, gpu or paper (the default)")
    command.add_argument("--teacher", action="append",
                         help="a published teacher in place of the scale's; further ones: their parameters beside it")
    command.add_argument("--gpus", type=int, default=8)
    command.add_argument("--device", default="h100", help="h100 (the default), h200, a100, rtx4090 or cpu")
    command.add_argument("--flops-per-second", type=float, help="a measured matmul rate of the device; cpu needs one")
    command.add_argument("--sharding", default="", help="none, ddp or fsdp2 (the default on several GPUs)")
    command.add_argument("--utilisation", type=float, help="share of that rate, in (0, 1]; the plan states it")
    command.add_argument("--bytes-per-token", type=float, help="the tokenizer's (default: the paper's)")
    command.add_argument("--checkpointing", action="store_true", help="keep the inputs of blocks, run them twice")
    command.add_argument("--backend", default="torch", help="of Mamba2: torch (the default) or triton")
    command.set_defaults(run=run_plan)


def run_plan(arguments: argparse.Namespace) -> int:
    from dbyte.model.cores import PAPER
    from dbyte.presets import scale
    from dbyte.report.devices import device
    from dbyte.report.plan import UTILISATION, Setting, plan_text

    chosen = scale(arguments.scale)
    teachers = tuple(arguments.teacher or ())
    compared = teachers[1:] if teachers or chosen.name != "paper" else PAPER
    setting = Setting(
        chosen, device(arguments.device, flops_per_second=arguments.flops_per_second),
        teacher=teachers[0] if teachers else None, gpus=arguments.gpus, sharding=arguments.sharding,
        utilisation=UTILISATION if arguments.utilisation is None else arguments.utilisation,
        bytes_per_token=arguments.bytes_per_token, checkpointing=arguments.checkpointing, backend=arguments.backend)
    print(plan_text(setting, compared=compared))
    return 0


def declare_train(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("train", help="train teacher and student, in one process or many (torchrun, "
                                                "accelerate launch); what is complete is not trained again")
    command.add_argument("--scale", default="smoke", help="smoke, small, gpu or paper (default smoke)")
    command.add_argument("--through", default="2.2", metavar="STEP", help="the last step: teacher, 1.1 .. 2.2")
    command.add_argument("--teacher", help="a folder or hub name instead of the scale's teacher")
    command.add_argument("--corpus", action="append", default=[], metavar="NAME=BYTES",
                         help="world, pydocs, file:PATH or hub:NAME instead of the scale's corpora (repeatable)")
    command.add_argument("--seed", type=int, default=0, help="of everything that is drawn at random (default 0)")
    command.add_argument("--device", help="cpu or cuda instead of the scale's")
    command.add_argument("--precision", help="fp32 or bf16 instead of the scale's")
    command.add_argument("--batch-rows", type=int, help="rows of an update, over all processes")
    command.add_argument("--row-bytes", type=int, help="bytes of a row")
    command.add_argument("--processes", type=int, help="how many must have met; refused if others did")
    command.add_argument("--sharding", default="ddp", help="ddp: the model whole in each process; fsdp2: shared out")
    command.add_argument("--rows-at-once", type=int, help="rows of a micro-batch in each process (less memory)")
    command.add_argument("--recompute", action="store_true", help="keep no activations inside blocks (less memory)")
    command.add_argument("--tensorboard", action="store_true", help="write TensorBoard files beside metrics.jsonl")
    command.set_defaults(run=run_train)


def run_train(arguments: argparse.Namespace) -> int:
    from dbyte import presets

    scale = presets.changed(presets.scale(arguments.scale), teacher=arguments.teacher,
                            corpora=dict(map(corpus_amount, arguments.corpus)), device=arguments.device,
                            precision=arguments.precision, batch_rows=arguments.batch_rows,
                            row_bytes=arguments.row_bytes)
    from dbyte.distill.curriculum import curriculum, run_steps
    from dbyte.distill.processes import join
    from dbyte.distill.teacher import teacher_run
    from dbyte.distill.trainer import Launch

    steps = curriculum(scale)
    names = ["teacher", *(step.name[:3] for step in steps)]
    if arguments.through not in names:
        raise ValueError(f"--through must be one of {', '.join(names)}, found {arguments.through!r}")
    launch = Launch(join(scale.device, expected=arguments.processes, sharding=arguments.sharding),
                    rows_at_once=arguments.rows_at_once, recompute=arguments.recompute,
                    tensorboard=arguments.tensorboard)
    folders = [teacher_run(scale, seed=arguments.seed, launch=launch)]
    if arguments.through != "teacher":
        runs = run_steps(scale, steps[: names.index(arguments.through)], seed=arguments.seed, launch=launch)
        folders += [run.model_folder for run in runs]
    if launch.processes.is_first:
        print("\n".join(f"{name:8} {folder}" for name, folder in zip(names, folders, strict=False)))
    return 0


def corpus_amount(text: str) -> tuple[str, int]:
    """NAME=BYTES, as in `world=8_000_000` or `file:notes=5e6`; ValueError otherwise."""
    name, _, amount = text.rpartition("=")
    try:
        return name, int(float(amount.replace("_", "")))
    except (ValueError, OverflowError):
        raise ValueError(f"--corpus expects NAME=BYTES, such as pydocs=5e6, found {text!r}") from None


def declare_runs(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("runs", help="list what was trained; show, verify or prune it")
    what = command.add_subparsers(metavar="WHAT", dest="what")
    what.add_parser("list", help="one line a run (the default)")
    for name, text in (("show", "settings, lineage and last losses of one run"),
                       ("verify", "check every file against its checksum; status 1 if one is damaged")):
        what.add_parser(name, help=text).add_argument("name", nargs="?" if name == "verify" else None,
                                                      help="the first digits of its name")
    prune = what.add_parser("prune", help="say what could go, and with --yes remove it; killed writes always count")
    prune.add_argument("--unused", action="store_true", help="runs that no file in results/ comes from")
    prune.add_argument("--run", dest="names", metavar="NAME", action="append", default=[],
                       help="this run and all that went on from it")
    prune.add_argument("--yes", action="store_true", help="remove it")
    command.set_defaults(run=run_runs, what="list")


def run_runs(arguments: argparse.Namespace) -> int:
    from dbyte.distill import inventory
    from dbyte.paths import RESULTS, RUNS
    from dbyte.report import ledger

    if arguments.what == "list":
        print(ledger.listing(inventory.entries(RUNS)))
        return 0
    if arguments.what == "show":
        print(ledger.description(inventory.find(arguments.name, RUNS), RUNS))
        return 0
    if arguments.what == "verify":
        chosen = [inventory.find(arguments.name, RUNS)] if arguments.name else inventory.entries(RUNS)
        wrong = [line for entry in chosen for line in inventory.verify(entry)]
        print("\n".join(wrong) or f"{len(chosen)} run{'s' * (len(chosen) != 1)}: every file is as it was written")
        return 1 if wrong else 0
    going = [entry for name in arguments.names for entry in inventory.descendants(inventory.find(name, RUNS), RUNS)]
    going += [entry for entry in inventory.unused(RUNS, RESULTS) if arguments.unused and entry not in going]
    folders = inventory.leftovers(RUNS) + [entry.folder for entry in reversed(going)]
    for folder in folders:
        print(f"{inventory.folder_bytes(folder) / 1e6:10.1f} MB  {folder}")
    if not arguments.yes:
        print(f"{len(folders)} folders; nothing was removed: say --yes to remove them")
        return 0
    print(f"{inventory.remove(folders) / 1e6:.1f} MB freed")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command; each sets `run`, which takes the arguments and returns the exit status."""
    top = argparse.ArgumentParser(prog="dbyte", description="Distil token-trained language models to byte-level ones.")
    top.add_argument("--traceback", action="store_true", help="show where an error arose, not only what it says")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    declare_reproduce(commands)
    declare_notebooks(commands)
    declare_readme(commands)
    declare_plan(commands)
    declare_train(commands)
    declare_runs(commands)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for a failed run, 2 for input that cannot be used."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
        if arguments.traceback:
            raise
        print(f"dbyte: error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if arguments.traceback or error.name not in NOTEBOOK_PACKAGES:
            raise
        print(f"dbyte: error: this command needs {error.name}: pip install 'dbyte[notebooks]' (in a checkout: "
              "pip install -e '.[notebooks]')", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dbyte: interrupted; finished training is kept, the same command goes on from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
