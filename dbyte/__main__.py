"""The command line, `python -m dbyte COMMAND`: the parser, and how errors are reported."""

import argparse
import errno
import gc
import os
import sys

from dbyte.commands import COMMANDS
from dbyte.memory import ask_for_huge_pages

EXTRAS = {"gguf": "teachers", "peft": "lora"} | dict.fromkeys(  # what may be missing, and the extra that installs it
    ("papermill", "jupytext", "nbformat", "nbclient", "ipykernel"), "notebooks")
# Words in a RuntimeError; torch has an exception class of its own only for a full GPU.
TOO_LARGE = ("can't allocate memory", "Storage size calculation overflowed")
NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}
SEEDS = 2**63
READER_GONE = 141  # as a shell says of a program that ended by SIGPIPE


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command; each sets `run`, which takes the arguments and returns the exit status."""
    top = argparse.ArgumentParser(prog="dbyte", description="Distil token-trained language models to byte-level ones.")
    top.add_argument("--traceback", action="store_true", help="show where an error arose, not only what it says")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.declare(commands)
    return top


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed that the generators of torch and numpy do not both take."""
    if not 0 <= seed < SEEDS:
        raise ValueError(f"--seed must be a whole number from 0 to {SEEDS - 1}, found {seed}")


def is_too_large(error: Exception) -> bool:
    """Whether an error says that memory ran out: on a GPU, in torch or in numpy."""
    return (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            or any(words in str(error) for words in TOO_LARGE))


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for a failed run, 2 for unusable input, 130 for Ctrl-C."""
    arguments = argparse.Namespace(traceback=False)
    try:
        try:
            arguments = parser().parse_args(argv)
        finally:
            sys.stdout.flush()  # --help waits in a buffer, too
        ask_for_huge_pages()
        if not sys.stderr.isatty():  # a log would keep every frame of transformers' bars, which read this when imported
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        check_seed(getattr(arguments, "seed", 0))
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except (ValueError, OSError, FloatingPointError) as error:
        if arguments.traceback:
            raise
        print(f"dbyte: error: {error}", file=sys.stderr)
        if getattr(error, "errno", None) in NOT_WRITABLE:
            print("this place cannot be used: change its rights, or set $DBYTE_ROOT to a folder whose runs/, results/ "
                  "and figures/ can be written", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if arguments.traceback or not is_too_large(error):
            raise
        print(f"dbyte: error: {error}\nto need less memory: --rows-at-once 1, --recompute, --sharding fsdp2, or "
              "smaller sizes; `python -m dbyte plan` says what fits", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if arguments.traceback or error.name not in EXTRAS:
            raise
        extra = EXTRAS[error.name]
        print(f"dbyte: error: this command needs {error.name}: pip install 'dbyte[{extra}]' (in a checkout: "
              f"pip install -e '.[{extra}]')", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dbyte: interrupted; finished training is kept, and the same command continues from there",
              file=sys.stderr)
        return 130


if __name__ == "__main__":
    status = main()
    gc.freeze()  # or Python looks for garbage among all that torch and transformers hold, for two seconds, as it ends
    sys.exit(status)
