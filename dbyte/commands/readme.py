"""`readme`: check or write the README's numbers."""

import argparse


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "readme", help="check that the README's numbers are those of results/small, or write them")
    command.add_argument("--write", action="store_true", help="write what differs")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from dbyte.report.page import readme

    agrees = readme(write=arguments.write)
    print("README.md is up to date" if agrees else "README.md differs: run `python -m dbyte readme --write`")
    return 0 if agrees else 1
