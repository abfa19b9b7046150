"""`readme`: check or write the README's numbers and docs/reading.md."""

import argparse


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "readme", help="check that the README's numbers are those of results/small and docs/reading.md has today's "
        "lines, or write both")
    command.add_argument("--write", action="store_true", help="write what differs")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from dbyte.report.page import readme
    from dbyte.report.reading import reading

    checked = {"README.md": readme(write=arguments.write), "docs/reading.md": reading(write=arguments.write)}
    for name, agrees in checked.items():
        print(f"{name} is up to date" if agrees else f"{name} differs: run `python -m dbyte readme --write`")
    return 0 if all(checked.values()) else 1
