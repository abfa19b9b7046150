"""Steps, prompts and trees of texts in C++ on a CPU.

Only the edges choose it: `dbyte.generate`, the commands, and evaluate's lm, measure and speed.
"""

from dbyte.decode.engine import Engine
from dbyte.model.student import ByteStudent
from dbyte.native import library
from dbyte.native.engine import NativeEngine


def engine_for(student: ByteStudent, compiled: bool | None = None) -> Engine:
    """The engine that computes this student's parts.

    compiled: True: C++. False: plain torch. None: C++ for a student in fp32 on a CPU where a compiler is available.
    Raises:
        ValueError: for True and a student that is not in fp32 on a CPU. FileNotFoundError: for True without a C++
            compiler. RuntimeError: for True where it refuses the sources. OSError: where the result cannot be loaded.
    """
    native = library.is_cpu_fp32(student)
    if compiled is None:
        compiled = native and library.compiles()
    if not compiled:
        return Engine(student)
    if not native:
        raise ValueError("compiled steps are for a student in fp32 on a CPU: leave compiled out, or move the student "
                         "there")
    library.library()  # raises with the remedy
    return NativeEngine(student)
