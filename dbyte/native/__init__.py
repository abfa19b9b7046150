"""Steps and prompts in C++ on a CPU.

Only the edges choose it: `dbyte.generate`, the commands, and evaluate's lm, measure and speed.
"""


def engine_for(student, compiled: bool | None = None):
    """The `decode.engine.Engine` that computes this student's steps.

    compiled: True: compiled code. False: plain torch. None: compiled for a student in fp32 on a CPU where a C++
    compiler is available, else torch.
    Raises:
        FileNotFoundError: for True without a C++ compiler. RuntimeError: where the compiler refuses the sources.
    """
    from dbyte.decode.engine import Engine  # here, while model/ still imports parts of this room
    from dbyte.native import library
    from dbyte.native.engine import NativeEngine

    if not library.wanted(compiled, student):
        return Engine(student)
    if compiled and library.runs_here(student):
        library.library()  # raises with the remedy
    return NativeEngine(student)
