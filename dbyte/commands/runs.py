"""`runs`: list, show, verify and prune what was trained."""

import argparse

from dbyte.commands.scales import declare_scale


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("runs", help="list what was trained; show, verify or prune it")
    what = command.add_subparsers(metavar="WHAT", dest="what")
    what.add_parser("list", help="one line per run (the default)")
    for name, text in (("show", "settings, lineage and last losses of one run; `main`: the student of a scale"),
                       ("verify", "check every file against its checksum; exit status 1 if one is damaged")):
        what.add_parser(name, help=text).add_argument("name", nargs="?" if name == "verify" else None,
                                                      help="the first digits of its name, or main")
        declare_scale(what.choices[name], "smoke")
        what.choices[name].add_argument("--seed", type=int, default=0, help="of the main student (default 0)")
    prune = what.add_parser("prune", help="print what can be removed, and remove it with --yes; what killed processes "
                                          "left is always included")
    prune.add_argument("--unused", action="store_true", help="runs that no file in results/ comes from")
    prune.add_argument("--run", dest="names", metavar="NAME", action="append", default=[],
                       help="this run and all that continue it")
    prune.add_argument("--yes", action="store_true", help="remove it")
    command.set_defaults(run=run, what="list")


def run(arguments: argparse.Namespace) -> int:
    from dbyte.distill import run_list
    from dbyte.paths import RUNS

    if arguments.what == "prune":
        return prune(arguments)
    name = getattr(arguments, "name", None)
    if name == "main":
        name = main_student(arguments)
    chosen = run_list.entries(RUNS) if name is None else [run_list.find(name, RUNS)]
    wrong = []
    if arguments.what == "list":
        print(run_list.listing(chosen))
    elif arguments.what == "show":
        print(run_list.description(chosen[0], RUNS))
    else:
        wrong = [line for entry in chosen for line in run_list.problems(entry)]
        print("\n".join(wrong) or f"{len(chosen)} runs: every file is as it was written")
    return 1 if wrong else 0


def main_student(arguments: argparse.Namespace) -> str:
    """The name of the run in which the curriculum of a scale ends; ValueError if it is not trained."""
    from dbyte import presets
    from dbyte.distill.curriculum import curriculum, plan_steps
    from dbyte.distill.run_list import entries
    from dbyte.paths import RUNS

    scale = presets.scale(arguments.scale, arguments.settings)
    steps = curriculum(scale)
    if any(entry.step == steps[-1].name for entry in entries(RUNS)):  # else planning could pack texts for nothing
        planned = plan_steps(scale, steps, seed=arguments.seed)[-1]
        if planned.status == "complete":
            return planned.address
    raise ValueError(f"the student of scale {scale.name}, seed {arguments.seed}, is not trained: `python -m dbyte "
                     f"train --scale {arguments.scale} --seed {arguments.seed}` trains it")


def prune(arguments: argparse.Namespace) -> int:
    from dbyte.distill import run_list
    from dbyte.paths import RESULTS, RUNS

    chosen = run_list.unused(RUNS, RESULTS) if arguments.unused else []
    for name in arguments.names:
        chosen = run_list.descendants(run_list.find(name, RUNS), RUNS) + chosen
    children_first = [entry.folder for entry in reversed(chosen)]
    folders = list(dict.fromkeys(run_list.leftovers(RUNS) + children_first))
    for folder in folders:
        print(f"{run_list.folder_bytes(folder) / 1e6:10.1f} MB  {folder}")
    if arguments.yes:
        print(f"{run_list.remove(folders) / 1e6:.1f} MB freed")
    else:
        print(f"{len(folders)} folders; nothing was removed: say --yes to remove them")
    return 0
