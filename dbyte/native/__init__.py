"""Steps, prompts and trees of texts in C++ on a CPU.

Only the edges choose it: `dbyte.generate`, the commands, and evaluate's lm, measure and speed.
"""

from dbyte.decode.engine import Engine
from dbyte.model.student import ByteStudent
from dbyte.native import library
from dbyte.native.engine import NativeEngine


def engine_for(student: ByteStudent, compiled: bool | None = None) -> Engine:
    """The engine that computes this student's parts.

    compiled: True: compiled code; on a GPU, or where the C++ does not know a part, torch.compile fuses single bytes.
    False: plain torch. None: compiled for a student in fp32 on a CPU where a C++ compiler is available, else torch.
    Raises:
        FileNotFoundError: for True without a C++ compiler. RuntimeError: for True where it refuses the sources.
    """
    native = library.is_cpu_fp32(student)
    if compiled is None:
        compiled = native and library.compiles()
    if compiled and native:
        library.library()  # raises with the remedy
    return NativeEngine(student) if compiled else Engine(student)
