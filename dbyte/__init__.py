"""dbyte turns token-trained language models into byte-level ones (arXiv 2602.01007).

The public names load on first use, so that `import dbyte` is quick and needs neither a GPU nor a network.
Import dbyte before torch: it asks OpenMP for threads that sleep while they wait, unless $OMP_WAIT_POLICY is set.
"""

import os
import warnings
from collections.abc import Iterator
from importlib import import_module

from dbyte.version import __version__

# torch's OpenMP reads this once, when torch is loaded. Threads that wait spin otherwise, and where another process is
# busy they then take the core from the very thread that they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# transformers loads tqdm, which says this in red at the top of a notebook where ipywidgets is not installed.
warnings.filterwarnings("ignore", message="IProgress not found")

_HOMES = {
    "Aligned": "dbyte.text.spans", "TokenBytes": "dbyte.text.spans",
    "ByteStudent": "dbyte.model.student", "StudentConfig": "dbyte.model.student_config",
    "StudentOutput": "dbyte.model.student",
    "ssd": "dbyte.model.ssd", "perturb": "dbyte.text.perturb",
    "ByteTokenizer": "dbyte.text.byte_tokenizer", "push_to_hub": "dbyte.evaluate.model_card",
}
_MODULES = {"losses": "dbyte.distill.losses", "byte_probabilities": "dbyte.byte_probabilities"}
__all__ = ["__version__", "generate", "generate_stream", *_HOMES, *_MODULES]


def __getattr__(name: str):
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"dbyte has no {name!r}; its names are {', '.join(__all__)}")


def generate(student, prompts, *, compiled: bool = False, **options) -> "list[str] | list[bytes]":
    """Continue each prompt (str, or UTF-8 bytes) with a student; returns texts, or bytes with as_bytes=True.

    student: or a teacher as a `byte_probabilities.ByteTeacher`, whose prompts may end at any byte; it has no compiled
    code, and takes the options of `decode.teacher_text.generate_from_teacher`.
    compiled: run the student's steps by compiled code: more bytes per second after a start of a few seconds, and the
    same function within rounding. It needs a C++ compiler, and a student in fp32 on a CPU.
    options: max_new_bytes, temperature, top_k, top_p, seed, stop, stage and more, which
    `dbyte.decode.generate.generate` explains.

    Raises:
        FileNotFoundError: if compiled is True and there is no C++ compiler.
        ValueError: for prompts or options that cannot be used.
    """
    from dbyte.byte_probabilities import ByteTeacher
    from dbyte.decode.generate import generate
    from dbyte.decode.teacher_text import generate_from_teacher
    from dbyte.native import engine_for

    if isinstance(student, ByteTeacher):
        if compiled:
            raise ValueError("compiled code runs students, and this is a token-trained teacher: leave `compiled` out")
        return generate_from_teacher(student, prompts, **options)
    return generate(student, prompts, engine=engine_for(student, compiled), **options)


def generate_stream(student, prompt, *, compiled: bool = False, **options) -> "Iterator[str] | Iterator[bytes]":
    """Continue one prompt and yield the text piece by piece; the pieces joined are what `generate` returns.

    compiled: run the student's steps by compiled code, which needs a C++ compiler and a student in fp32 on a CPU.
    options: those of `generate`, which `dbyte.decode.generate.generate_stream` lists.

    Raises:
        FileNotFoundError: if compiled is True and there is no C++ compiler.
        ValueError: for a prompt or options that cannot be used, before the first piece.
    """
    from dbyte.byte_probabilities import ByteTeacher
    from dbyte.decode.generate import generate_stream
    from dbyte.native import engine_for

    if isinstance(student, ByteTeacher):
        raise ValueError("a token-trained teacher is not streamed: call `generate`, or stream a student's text")
    return generate_stream(student, prompt, engine=engine_for(student, compiled), **options)


def __dir__() -> list[str]:
    return sorted(__all__)
