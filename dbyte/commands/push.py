"""`push`: a finished student on the hub, with a card that is generated from its runs; `--dry-run` prints the card."""

import argparse


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("push", help="upload a student with its tokenizer and a generated card to the hub")
    command.add_argument("model", metavar="DIR", help="folder of a finished run, as `train` names it")
    command.add_argument("name", metavar="USER/NAME", help="the repository")
    command.add_argument("--private", action="store_true", help="make a new repository private")
    command.add_argument("--dry-run", action="store_true", help="print the card and upload nothing")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from dbyte.evaluate.model_card import model_card, push_to_hub

    if arguments.dry_run:
        print(model_card(Path(arguments.model), title=arguments.name))
    else:
        print(push_to_hub(arguments.model, arguments.name, private=arguments.private))
    return 0
