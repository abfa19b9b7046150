"""Table 10 in bits per byte of real text: what a larger teacher gives its student, next to how much better it is.

Everything is read on the same pieces of the same held-out documents, so differences are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dbyte.evaluate.harness import ColumnResult, correct_by_column
from dbyte.evaluate.stats import Estimate
from dbyte.presets import Scale, TeacherShape
from dbyte_paper import domains
from dbyte_paper.ablation_runs import Measurements, Trained, correct_of, retention_rows
from dbyte_paper.above_chance import kept_above_chance
from dbyte_paper.variants import OTHER_FAMILY, OWN_SIZE

ALONG = "stage1/tokenizer"  # so that what a router costs is no part of it


@dataclass(frozen=True)
class Reader:
    """Reads models on some documents, each once: `bits` of a folder and a reading, as `domains.bits_on` returns it."""

    scale: Scale
    documents: Sequence[str]
    known: dict = field(default_factory=dict, repr=False)

    def bits(self, folder: Path, reading: str) -> dict:
        if (folder, reading) not in self.known:
            self.known[folder, reading] = domains.bits_on(folder, reading, self.documents, device=self.scale.device,
                                                          row_bytes=self.scale.row_bytes)
        return self.known[folder, reading]

    def of_students(self, trained: Trained, name: str) -> list[dict]:
        """The bits of each seed's student after its last step."""
        return [self.bits(runs[-1].model_folder, ALONG) for runs in trained[name]]


def bits_rows(read: Reader, teachers: Mapping[str, Path], trained: Trained, corpus: str, *,
              arms: Mapping[str, dict], falling: Mapping[str, float]) -> list[dict]:
    """Tidy rows of bits per byte of each teacher and of its students: model, corpus, and what the students got.

    falling: percent that the loss of step 1.1 still fell over its last quarter.
    """
    none = dict.fromkeys(next(iter(arms.values())), float("nan")) | {"sweep": "", "falling": float("nan")}
    found = {f"teacher, {name}": ([read.bits(folder, "token")], none) for name, folder in teachers.items()}
    found |= {name: (read.of_students(trained, name), arms[name] | {"falling": falling[name]}) for name in trained}
    return [{"model": name, "corpus": corpus}
            | domains.over_seeds([Estimate(one["value"], one["stderr"], one["n"]) for one in by_seed]) | added
            for name, (by_seed, added) in found.items()]


def more_rows(read: Reader, teachers: Mapping[str, Path], trained: Trained, corpus: str) -> list[dict]:
    """Tidy rows in percent: how many bits more than with a teacher of its own size a student needs with a larger one.

    Then how many more the teacher of the student's size needs than a larger one, which is what there was to learn, and
    its student than itself, which is what the student has not learnt.
    """
    own = read.of_students(trained, OWN_SIZE)
    larger = [name for name in trained if name not in (OWN_SIZE, OTHER_FAMILY)]
    rows = []
    for name in larger:
        pairs = zip(read.of_students(trained, name), own, strict=True)
        rows.append(domains.compared([domains.more_bits(*pair) for pair in pairs], what=f"{name} - {OWN_SIZE}"))
    for name in larger:
        pair = (read.bits(teachers[one], "token") for one in (OWN_SIZE, name))
        rows.append(domains.compared([domains.more_bits(*pair)], what=f"teachers, {OWN_SIZE} - {name}"))
    itself = [domains.more_bits(one, read.bits(teachers[OWN_SIZE], "token")) for one in own]
    rows.append(domains.compared(itself, what=f"{OWN_SIZE} - its teacher"))
    return [row | {"corpus": corpus} for row in rows]


def kept_rows(measured: Measurements, taught: Mapping[str, Mapping[str, ColumnResult]],
              shapes: Mapping[str, TeacherShape | str]) -> list[dict]:
    """`retention_rows` against the teacher whose core each student has, with what is kept above chance beside it.

    `above_chance` is nan where that teacher is at chance. tokenizer: the policy by which the student's was made.
    """
    whose = {name: OTHER_FAMILY if name.startswith(OTHER_FAMILY) else OWN_SIZE for name in measured}
    rows = retention_rows(measured, {name: taught[core] for name, core in whose.items()})
    for row in rows:
        teacher = taught[whose[row["model"]]]
        chance = float(np.mean([column.chance for column in teacher.values()]))
        row["above_chance"] = kept_above_chance(correct_of(measured[row["model"]]), correct_by_column(teacher),
                                                chance=chance).value
        row["tokenizer"] = policy(shapes[whose[row["model"]]])
    return rows


def policy(shape: TeacherShape | str) -> str:
    """How the tokenizer of a teacher was made; that of one from elsewhere is its own."""
    if isinstance(shape, str):
        return shape
    return f"{shape.vocabulary} tokens of {' and '.join(shape.tokenizer_corpora) or 'all corpora'}"
