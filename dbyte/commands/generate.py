"""`generate`: continue text with a trained student, once or prompt by prompt."""

import argparse
import sys
from functools import partial
from pathlib import Path

INTERRUPTED = 130


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "generate", help="continue text with a student; without a prompt, on a terminal, it asks for prompts")
    command.add_argument("folder", metavar="FOLDER", help="of a student, as `train` names it, or of its run")
    command.add_argument("prompts", metavar="PROMPT", nargs="*", help="text to continue; - reads standard input")
    command.add_argument("--file", action="append", default=[], metavar="PATH",
                         help="read a prompt from a file, byte for byte (repeatable; - is standard input)")
    command.add_argument("--lines", action="append", default=[], metavar="PATH",
                         help="read prompts from a file, one per line (repeatable)")
    command.add_argument("--rows", type=int, default=16, metavar="N",
                         help="prompts that are continued together, default 16")
    command.add_argument("--chat", action="store_true", help="talk with the student of an instruct teacher: a prompt "
                         "is a user's turn under the teacher's chat template, and answers are remembered")
    command.add_argument("--stage", type=int, help="1 writes tokens, 2 bytes (default: as trained)")
    command.add_argument("--max-new-bytes", type=int, default=256, metavar="N", help="default 256")
    command.add_argument("--temperature", type=float, default=0.0, help="0, the default, takes the likeliest symbol")
    command.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest symbols")
    command.add_argument("--top-p", type=float, default=1.0, metavar="P",
                         help="draw from the likeliest symbols that make up P, in (0, 1]")
    command.add_argument("--seed", type=int, default=0, help="seed of the draws (default 0)")
    command.add_argument("--stop", action="append", default=[], metavar="TEXT",
                         help="end before this text (repeatable)")
    command.add_argument("--raw", action="store_true", help="write bytes as they are drawn, UTF-8 or not")
    command.add_argument("--compiled", action="store_true", help="compiled steps: a few seconds to start, then more "
                         "bytes per second; needs a C++ compiler")
    command.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.rows < 1:
        raise ValueError(f"--rows must be at least 1, found {arguments.rows}")
    prompts = _prompts(arguments)
    from dbyte.decode.generate import load_student
    from dbyte.decode.sampling import equal_before
    from dbyte.device import check_device
    from dbyte.distill.runs import model_folder

    check_device(arguments.device)
    folder = model_folder(Path(arguments.folder))
    student = load_student(folder, stage=arguments.stage).to(arguments.device)
    chat = _template(folder) if arguments.chat else None
    try:
        if prompts is None:
            return _converse(student, arguments, chat)
        if chat:
            prompts = [_conversation(student, arguments, chat).prompt(_turn(prompt)) for prompt in prompts]
        repeats = equal_before(prompts)
        for first in range(0, len(prompts), arguments.rows):
            rows = slice(first, first + arguments.rows)
            _write(student, prompts[rows], arguments, repeats=repeats[rows])
    except KeyboardInterrupt:
        _end_line()
        return INTERRUPTED
    return 0


def _prompts(arguments: argparse.Namespace) -> list[bytes] | None:
    """The prompts that were given; None: ask for them."""
    given = [_read(prompt) if prompt == "-" else prompt.encode(errors="surrogateescape")
             for prompt in arguments.prompts]
    given += [_read(name) for name in arguments.file]
    for name in arguments.lines:
        given += _read(name).splitlines()
    if not given and not sys.stdin.isatty():
        given = [_read("-")]
    return given or None


def _read(name: str) -> bytes:
    """The bytes of a file, or of standard input for `-`; ValueError if there are none."""
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    if not data:
        raise ValueError(f"{'standard input' if name == '-' else name} is empty: there is nothing to continue (the "
                         'PROMPT "" begins from nothing)')
    return data


def _template(folder: Path):
    """The chat template that lies with a student."""
    from dbyte.model.teacher import load_tokenizer
    from dbyte.text.chat import ChatTemplate
    from dbyte.text.spans import TokenBytes

    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{folder} has no tokenizer (looked for tokenizer.json), and so no chat template: save "
                                "the teacher's there")
    tokenizer = load_tokenizer(folder)
    return ChatTemplate.from_tokenizer(tokenizer, TokenBytes.from_tokenizer(tokenizer))


def _conversation(student, arguments: argparse.Namespace, chat):
    from dbyte.decode.conversation import Conversation

    return Conversation(student, chat, arguments.max_new_bytes, partial(print, file=sys.stderr))


def _turn(said: bytes) -> str:
    """What a user says; ValueError for bytes that are no text."""
    try:
        return said.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"a turn of a conversation is UTF-8, found the byte 0x{said[error.start]:02X} at offset "
                         f"{error.start}: {error.reason}") from error


def _converse(student, arguments: argparse.Namespace, chat=None) -> int:
    """Ask for prompts and continue each until the input ends; Ctrl-C ends a text, or at the prompt the command.

    chat: a template, to remember what was said and answered; an answer that was interrupted is forgotten, and an empty
    line says nothing.
    """
    tell = partial(print, file=sys.stderr)
    tell("One prompt per line; Ctrl-C ends a text, Ctrl-D the command.")
    talk = _conversation(student, arguments, chat) if chat else None
    while True:
        try:
            prompt = input("> ").encode(errors="surrogateescape")
        except EOFError:
            _end_line()
            return 0
        except UnicodeDecodeError as error:  # a terminal sends what is typed or pasted, text or not
            tell(f"dbyte: error: this line is no text: {error}")
            continue
        try:
            if talk is None:
                _write(student, [prompt], arguments)
            elif (said := _turn(prompt)).strip():
                (answer,) = _write(student, [talk.prompt(said)], arguments)
                talk.remember(said, answer.decode(errors="replace"))
        except KeyboardInterrupt:
            _end_line()
        except ValueError as error:
            tell(f"dbyte: error: {error}")


def _write(
    student, prompts: list[bytes], arguments: argparse.Namespace, *, repeats: list[int] | None = None
) -> list[bytes]:
    """Print the continuations in the prompts' order, each as it becomes certain and on lines of its own; returns them.

    All advance together; a later one is printed when those before it have ended.
    """
    from dbyte.decode.generate import begin, pieces
    from dbyte.decode.sampling import Sampling
    from dbyte.native import engine_for

    sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed)
    writer = begin(student, prompts, max_new_bytes=arguments.max_new_bytes, sampling=sampling, stop=arguments.stop,
                   stage=arguments.stage, valid_utf8=not arguments.raw, repeats=repeats,
                   engine=engine_for(student, arguments.compiled), chat=arguments.chat)
    for row in range(len(prompts)):
        for piece in pieces(writer, row, as_bytes=arguments.raw):
            sys.stdout.buffer.write(piece if arguments.raw else piece.encode())  # whatever the locale says
            sys.stdout.buffer.flush()
        if not arguments.raw:
            _end_line()
    return [bytes(text) for text in writer.written]


def _end_line() -> None:
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
