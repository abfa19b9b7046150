"""`report`: check or write the one-page report of a scale."""

import argparse


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "report", help="check that a scale's one-page report agrees with its results and figures, or write it")
    command.add_argument("--scale", default="small", help="which results (default small, the committed ones)")
    command.add_argument("--write", action="store_true", help="write what differs")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from dbyte import presets
    from dbyte.notebook.reproduce import shown
    from dbyte.report.page import report, report_path

    presets.scale(arguments.scale)
    agrees, path = report(arguments.scale, write=arguments.write), shown(report_path(arguments.scale))
    print(f"{path} and .html agree with the results" if agrees
          else f"{path} or .html differs: run `python -m dbyte report --scale {arguments.scale} --write`")
    return 0 if agrees else 1
