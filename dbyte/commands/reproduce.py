"""`reproduce`: run the notebooks at a scale."""

import argparse
import ast
import os
from pathlib import Path

from dbyte.commands.scales import declare_scale


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("reproduce", help="run the notebooks: results, tables and figures at one scale")
    declare_scale(command, "smoke", note=", minutes on a CPU; small takes hours")
    command.add_argument("--device", help="cpu or cuda instead of the scale's (or of $DBYTE_DEVICE)")
    command.add_argument("--only", metavar="NN[,NN]", help="some notebooks, such as 01 or 01,02")
    command.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
    command.add_argument("--ablation-seeds", type=int, metavar="N",
                         help="students per row of an ablation, seeds from --seed on (default: the scale's number)")
    command.add_argument("--out", type=Path, help="folder of the executed notebooks (default runs/notebooks/SCALE)")
    command.add_argument("--jobs", type=int, metavar="N", default=1,
                         help="notebooks at a time (default 1): each starts after those that it needs, on its share of "
                              "the cores or on $OMP_NUM_THREADS threads; measure speeds with 1")
    command.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                         help="one more parameter; all notebooks that run must have it")
    command.set_defaults(run=run)


def literal(text: str) -> object:
    """Return the Python literal that `text` spells, or the text itself: `3` is a number, `cuda` is a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def run(arguments: argparse.Namespace) -> int:
    from dbyte.device import check_device
    from dbyte.presets import DEVICE
    from dbyte_paper.reproduce import reproduce

    if arguments.device:
        check_device(arguments.device)
        os.environ[DEVICE] = arguments.device  # where every notebook's kernel finds it
    extra = {name: literal(value) for name, value in arguments.parameter}
    return reproduce(arguments.scale, arguments.settings, only=arguments.only, out=arguments.out, seed=arguments.seed,
                     jobs=arguments.jobs, ablation_seeds=arguments.ablation_seeds, extra=extra)
