"""What a student would weigh: parameters per part, counted on the real model built on the meta device."""

import torch

from dbyte.model.cores import core_config
from dbyte.model.student import ByteStudent, StudentConfig


def meta_student(teacher: str, config: StudentConfig | None = None) -> ByteStudent:
    """A student of the paper's sizes (Table 12) around a published teacher of `cores.CORES`, without weights."""
    config = StudentConfig.paper() if config is None else config
    config.core_config = core_config(teacher)
    with torch.device("meta"):
        return ByteStudent(config)


def parameters_by_part(student: ByteStudent) -> dict[str, int]:
    """How many parameters each part has, in the order of the data."""
    counts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in student.named_children()}
    counts["null_E"] = student.null_E.numel()
    return {name: count for name, count in counts.items() if count}


def parameters_table(teachers: tuple[str, ...], config: StudentConfig | None = None) -> str:
    """A Markdown table: a part a row, a teacher a column, in millions of parameters."""
    columns = {name: parameters_by_part(meta_student(name, config)) for name in teachers}
    parts = list(dict.fromkeys(part for counts in columns.values() for part in counts))
    lines = [f"| part, million parameters | {' | '.join(teachers)} |", "|---|" + "---:|" * len(teachers)]
    counted = [(part, [counts.get(part, 0) for counts in columns.values()]) for part in parts]
    counted.append(("all", [sum(counts.values()) for counts in columns.values()]))
    lines += [f"| {part} | " + " | ".join(f"{count / 1e6:,.2f}" for count in row) + " |" for part, row in counted]
    return "\n".join(lines)
