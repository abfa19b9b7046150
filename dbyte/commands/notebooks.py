"""`notebooks`: check or write the paired notebooks."""

import argparse


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("notebooks", help="check that each .ipynb agrees with its script, or write it again")
    command.add_argument("--write", action="store_true", help="write what differs; unchanged cells keep their outputs")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from dbyte.notebook.pairing import differences, find_scripts, read_notebook, read_script, sync
    from dbyte.paths import NOTEBOOKS

    status = 0
    for script in find_scripts(NOTEBOOKS):
        paired = script.with_suffix(".ipynb")
        if arguments.write:
            print(f"{paired.name}: {'written' if sync(script) else 'agrees'}")
            continue
        found = differences(read_script(script), read_notebook(paired)) if paired.exists() else ["it is missing"]
        print("\n".join(f"{paired.name}: {line}" for line in found) or f"{paired.name}: agrees")
        status |= bool(found)
    return status
