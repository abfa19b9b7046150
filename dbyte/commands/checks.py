"""`notebooks`, `readme`, `report`: check that committed files agree with their sources, or write them again."""

import argparse

from dbyte.commands.scales import declare_scale


def declare(commands: argparse._SubParsersAction) -> None:
    for run, text, kept in (
        (notebooks, "check that each .ipynb agrees with its script, or write it again",
         "; unchanged cells keep their outputs"),
        (readme, "check that the README's numbers are those of results/small, or write them", ""),
        (report, "check that a scale's one-page report agrees with its results and figures, or write it", ""),
    ):
        command = commands.add_parser(run.__name__, help=text)
        command.add_argument("--write", action="store_true", help=f"write what differs{kept}")
        command.set_defaults(run=run)
        if run is report:
            declare_scale(command, "small", note=", the committed results")


def notebooks(arguments: argparse.Namespace) -> int:
    from dbyte.paths import NOTEBOOKS
    from dbyte_paper.pairing import find_scripts, mismatches, read_notebook, read_script, sync

    status = 0
    for script in find_scripts(NOTEBOOKS):
        paired = script.with_suffix(".ipynb")
        if arguments.write:
            print(f"{paired.name}: {'written' if sync(script) else 'agrees'}")
            continue
        found = mismatches(read_script(script), read_notebook(paired)) if paired.exists() else ["it is missing"]
        print("\n".join(f"{paired.name}: {line}" for line in found) or f"{paired.name}: agrees")
        status |= bool(found)
    return status


def readme(arguments: argparse.Namespace) -> int:
    from dbyte_paper import page

    agrees = page.readme(write=arguments.write)
    print("README.md is up to date" if agrees else "README.md differs: run `python -m dbyte readme --write`")
    return 0 if agrees else 1


def report(arguments: argparse.Namespace) -> int:
    from dbyte import presets
    from dbyte_paper import page
    from dbyte_paper.reproduce import shown

    chosen = presets.scale(arguments.scale, arguments.settings)
    agrees = page.report(chosen, write=arguments.write)
    path = shown(page.report_path(chosen.name))
    print(f"{path} and .html agree with the results" if agrees
          else f"{path} or .html differs: say --write, too, as in `python -m dbyte report --scale SCALE --write`")
    return 0 if agrees else 1
