"""What is asked of a scale before anything is read or trained: whether a machine could hold it at all."""

import os

from dbyte.distill.data import check_data
from dbyte.distill.steps import stage1, stage2
from dbyte.model.student_config import StudentConfig
from dbyte.presets import Scale, TeacherShape


def check_sizes(scale: Scale) -> None:
    """Raise ValueError, with the name of the scale's table, for impossible sizes, rates or choices.

    On a CPU sizes are impossible, too, if the weights alone are more than the machine's memory.
    """
    check_data(scale)
    table = "student"
    try:
        student = StudentConfig(**scale.student)
        if scale.device == "cpu":
            _check_memory(student.encoder_shape().parameters() + student.decoder_shape().parameters(), "byte_width")
            if isinstance(shape := scale.teacher, TeacherShape):
                table = "teacher"
                block = 4 * shape.width**2 + 3 * shape.width * shape.ffn_width
                _check_memory(shape.vocabulary * shape.width + shape.layers * block, "width or vocabulary")
        for table, make in (("stage1", stage1), ("stage2", stage2)):
            make(**getattr(scale, table))
    except ValueError as error:
        raise ValueError(f"scale {scale.name}: {table}: {error}") from None


def _check_memory(parameters: int, remedy: str) -> None:
    """Raise ValueError if so many weights in fp32 are more than this machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * parameters > memory:
        raise ValueError(f"its weights alone would take {4 * parameters / 1e9:,.0f} GB, and this machine has "
                         f"{memory / 1e9:,.0f}: choose a smaller {remedy}, or fewer layers")
