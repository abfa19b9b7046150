"""`scales`: list the scales, or print one as a file to begin with; also the options that name a scale."""

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbyte.presets import Scale

HOW = """\
# To run a scale of your own, save this as my_run.toml, change it, and say: python -m dbyte train --scale my_run.toml
# What stays as it is can be left out of a file that begins with the line: base = "{name}"
"""


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("scales", help="list the scales; print one as a file to edit")
    what = command.add_subparsers(metavar="WHAT", dest="what")
    what.add_parser("list", help="one line per scale (the default)")
    shown = what.add_parser("show", help="print a scale as a file that can be saved, edited and passed to --scale")
    shown.add_argument("scale", metavar="SCALE", help="a name or a .toml file")
    declare_settings(shown)
    command.set_defaults(run=run, what="list")


def declare_scale(command: argparse.ArgumentParser, default: str, *, note: str = "") -> None:
    """Add --scale, whose help ends in `note`, and --set to a command; `presets.scale` takes what they give."""
    command.add_argument("--scale", default=default,
                         help=f"a name (python -m dbyte scales) or a .toml file (default {default}{note})")
    declare_settings(command)


def declare_settings(command: argparse.ArgumentParser) -> None:
    """Add --set to a command."""
    command.add_argument("--set", dest="settings", action="append", default=[], metavar="FIELD=VALUE",
                         help="change a field of the scale, such as stage1.align_bytes=20e6 (repeatable)")


def run(arguments: argparse.Namespace) -> int:
    from dbyte import presets
    from dbyte.scale_file import BUILT_IN, as_toml

    if arguments.what == "list":
        print(listing(presets.SCALES.values()))
        return 0
    found = presets.scale(arguments.scale, arguments.settings)
    if found.name in presets.SCALES:
        print(HOW.format(name=found.name))
        print(BUILT_IN[found.name].read_text(encoding="utf-8"), end="")
    else:
        print(as_toml(found), end="")
    return 0


def listing(scales: "Iterable[Scale]") -> str:
    """A table of scales: teacher, student, and the MB of each corpus and step."""
    import pandas as pd

    from dbyte.scale_file import STEP_BYTES

    rows = []
    for scale in scales:
        teacher = scale.teacher
        student = scale.student
        if not isinstance(teacher, str):
            teacher = f"{teacher.family}, {teacher.layers} x {teacher.width}, {teacher.vocabulary:,} tokens"
        corpora = ", ".join(f"{name.split('@')[0]} {size / 1e6:,g}" for name, size in scale.corpora)
        steps = [getattr(scale, table)[name] for table, names in STEP_BYTES.items() for name in names]
        sizes = f"{student['encoder_layers']} + {student['decoder_layers']} x {student['byte_width']}"
        rows.append((scale.name, teacher, corpora, sizes, *(f"{size / 1e6:,g}" for size in steps), scale.device))
    return pd.DataFrame(rows, columns=["scale", "teacher", "corpora, MB", "student", "1.1 MB", "1.2 MB", "1.3 MB",
                                       "2.1 MB", "2.2 MB", "device"]).to_string(index=False)
