"""Generate text: Stage 1 reads bytes and writes tokens, Stage 2 reads and writes bytes by JBP or MBP (section 4.1.2).

Rows of different lengths run together, and each row's text is what it would be alone, sampled or not. `stream.py` has
the states and one step, `writer.py` the loop, `sampling.py` the draws, `utf8.py` the symbols that may follow in UTF-8,
`lookahead.py` MBP's decision. `dbyte.generate` adds the choice of compiled code.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dbyte.decode.engine import Engine
from dbyte.decode.sampling import Sampling
from dbyte.decode.stream import ByteStream
from dbyte.decode.utf8 import DECODER, broken_character
from dbyte.decode.writer import Writer
from dbyte.model.student import ByteStudent
from dbyte.text.exact import UTF8_BYTES
from dbyte.text.spans import utf8


def load_student(folder: Path, *, stage: int | None = None) -> ByteStudent:
    """Load a student from its folder, in evaluation mode.

    stage: None for the one that the student was trained to. The other one is an error, since what it needs was never
    trained (Stage 2) or has changed since (Stage 1).
    Raises:
        FileNotFoundError: if the folder holds no model.
        ValueError: if it holds another kind of model, or a student of another stage.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no student (looked for config.json): name a folder that `python -m "
                                "dbyte train` printed, or one that save_pretrained wrote")
    student = ByteStudent.from_pretrained(folder).eval()
    if stage not in (None, student.config.stage):
        raise ValueError(f"{folder} holds a student of Stage {student.config.stage}, asked for Stage {stage}: name the "
                         "folder of step 1.3 (Stage 1) or 2.2 (Stage 2), or leave the stage out")
    return student


def generate(
    student: ByteStudent, prompts: Sequence[str | bytes], *, max_new_bytes: int = 256, temperature: float = 0.0,
    top_k: int | None = None, top_p: float = 1.0, seed: int = 0, stop: Sequence[str] = (), stage: int | None = None,
    as_bytes: bool = False, valid_utf8: bool | None = None, prompt_ends: list[list[int]] | None = None,
    repeats: Sequence[int] | None = None, engine: Engine | None = None, chat: bool = False,
) -> list[str] | list[bytes]:
    """Continue each prompt until EOS, a stop string (left out of the result) or `max_new_bytes`.

    Args:
        prompts: str, or UTF-8 bytes; an empty prompt starts from BOS.
        temperature, top_k, top_p, seed: see `sampling.Sampling`; temperature 0 takes the likeliest symbol.
        stage: 1 writes tokens, 2 writes bytes; None: the stage that the student was trained to.
        as_bytes: return raw bytes; else text.
        valid_utf8: draw only what may follow in UTF-8, and drop a character that the limit breaks; None: True for
            text, False for bytes. False: text has U+FFFD for a broken or invalid character. A character that a prompt
            of bytes begins is completed, and the text begins with the whole character.
        prompt_ends: where the teacher's tokens end in each prompt's bytes, to read it along the tokenizer's boundaries
            (Stage 1 before its router has learned); None: along the router's boundaries.
        repeats: for each row, the number of the repeat of its prompt, so that equal prompts in several calls get
            different draws; None: counted in this call.
        engine: computes the student's steps; None: plain torch. chat: as in `ByteStream`.
    Raises:
        ValueError: for a prompt or stop string of another type; a lone surrogate; a byte of a prompt that the student's
            tokens cannot spell, reserved bytes 0xFE or 0xFF or, with valid_utf8, no UTF-8; a prompt of more chunks than
            the core has positions; a limit below 1; a temperature, top_k or top_p out of range; a stage other than 1 or
            2, or 2 of a student of Stage 1; stop strings that are empty or not in a list.
    """
    if isinstance(prompts, str | bytes):
        raise ValueError(f"generate expects a list of prompts, found {type(prompts).__name__}: put it into a list")
    if not prompts:
        return []
    writer = begin(student, prompts, max_new_bytes=max_new_bytes, sampling=Sampling(temperature, top_k, top_p, seed),
                   stop=stop, stage=stage, valid_utf8=not as_bytes if valid_utf8 is None else valid_utf8,
                   prompt_ends=prompt_ends, repeats=repeats, engine=engine, chat=chat)
    with evaluating(student):
        writer.run()
    return [bytes(text) for text in writer.written] if as_bytes else [writer.text(row) for row in range(len(prompts))]


def generate_stream(
    student: ByteStudent, prompt: str | bytes, *, as_bytes: bool = False, valid_utf8: bool | None = None,
    max_new_bytes: int = 256, temperature: float = 0.0, top_k: int | None = None, top_p: float = 1.0, seed: int = 0,
    stop: Sequence[str] = (), stage: int | None = None, engine: Engine | None = None,
) -> Iterator[str] | Iterator[bytes]:
    """Yield the continuation of one prompt piece by piece; the pieces joined are what `generate` returns.

    Arguments and errors are those of `generate`; errors are raised by the call itself, before the first piece.
    """
    writer = begin(student, [prompt], max_new_bytes=max_new_bytes, sampling=Sampling(temperature, top_k, top_p, seed),
                   stop=stop, stage=stage, valid_utf8=not as_bytes if valid_utf8 is None else valid_utf8,
                   engine=engine)
    return pieces(writer, 0, as_bytes=as_bytes)


def pieces(writer: Writer, row: int, *, as_bytes: bool = False) -> Iterator[str] | Iterator[bytes]:
    """Yield one text of a writer as it becomes certain, and advance all its texts until this one has ended.

    A piece has whole characters, and what may become a stop string is held back until that is known.
    """
    decoder = DECODER(errors="replace")
    shown = 0
    is_open = True
    while is_open:
        is_open = writer.is_open(row)
        piece = bytes(writer.written[row][shown : _certain_bytes(writer, row)])
        before = b"" if shown or not piece else writer.broken[row]
        shown += len(piece)
        if not as_bytes:
            piece = decoder.decode(before + piece, final=not is_open)
        if piece:
            yield piece
        if is_open:
            with evaluating(writer.stream.student):
                writer.advance()


def _certain_bytes(writer: Writer, row: int) -> int:
    """How many bytes of a text will stay and can be shown."""
    text = writer.written[row]
    if not writer.is_open(row):
        return len(text)
    certain = len(text)
    for stop in writer.stops:
        for size in range(1, len(stop)):
            if text.endswith(stop[:size]):
                certain = min(certain, len(text) - size)
    if writer.valid_utf8:
        certain -= len(broken_character(writer.broken[row] + text[:certain]))
    return max(certain, 0)


def begin(
    student: ByteStudent, prompts: Sequence[str | bytes], *, max_new_bytes: int, sampling: Sampling,
    stop: Sequence[str] = (), stage: int | None = None, valid_utf8: bool = True,
    prompt_ends: list[list[int]] | None = None, repeats: Sequence[int] | None = None, engine: Engine | None = None,
    chat: bool = False, kind: type[Writer] = Writer,
) -> Writer:
    """Read the prompts and return the writer that continues them; arguments and errors are those of `generate`.

    chat: as in `ByteStream`. kind: the class of the writer.
    """
    check_limits(max_new_bytes, stop)
    if stage not in (None, 1, 2):
        raise ValueError(f"stage must be 1 (writes tokens), 2 (writes bytes) or None (as trained), found {stage!r}")
    if stage == 2 and student.config.stage == 1:
        raise ValueError("this student is of Stage 1, its byte heads were never trained: write with stage=1, or use a "
                         "student of Stage 2")
    encoded = _encoded(student, prompts)
    with evaluating(student):
        stream = ByteStream(student, encoded, new_bytes=max_new_bytes, stage=stage or student.config.stage or 2,
                            prompt_ends=prompt_ends, engine=engine, chat=chat)
    return kind(stream, encoded, sampling=sampling, limit=max_new_bytes, stops=[utf8(text) for text in stop],
                valid_utf8=valid_utf8, repeats=repeats, chat=chat)


def check_limits(max_new_bytes: int, stop: Sequence[str]) -> None:
    """Raise ValueError for a limit below 1, or stop strings that are empty or not in a list."""
    if max_new_bytes < 1:
        raise ValueError(f"max_new_bytes must be at least 1, found {max_new_bytes}")
    if isinstance(stop, str | bytes) or not all(text and isinstance(text, str) for text in stop):
        raise ValueError(f"stop must be a list of strings that are not empty, found {stop!r}")


def _encoded(student: ByteStudent, prompts: Sequence[str | bytes]) -> list[bytes]:
    """The bytes of each prompt; ValueError for another type, a lone surrogate, or a byte that no token has."""
    for prompt in prompts:
        if not isinstance(prompt, str | bytes):
            raise ValueError(f"a prompt must be str or bytes, found {type(prompt).__name__} ({prompt!r})")
    encoded = [utf8(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    if student.config.token_table_bytes:
        single = student.token_offset.diff() == 1
        missing = set(UTF8_BYTES).difference(student.token_table[student.token_offset[:-1][single]].tolist())
        for prompt in encoded:
            for byte in missing.intersection(prompt):
                raise ValueError(f"a prompt holds the byte 0x{byte:02X} at byte {prompt.index(byte)}, which the "
                                 "student's tokens cannot spell: remove it from the prompt")
    return encoded


@contextmanager
def evaluating(student: ByteStudent) -> Iterator[None]:
    """Put a student into evaluation mode within this context."""
    was_training = student.training
    student.eval()
    try:
        yield
    finally:
        student.train(was_training)
