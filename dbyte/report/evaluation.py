"""One call that scores a student and its teacher on the same items, as a table and as JSON.

Every accuracy comes with its standard error and number of items; student minus teacher is compared item by item, with a
paired bootstrap interval; averages weigh each task alike. The JSON holds every item's right and wrong, the hash of the
items, versions, seeds and times, and how much context did not fit.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from dbyte.atomic import atomic_write
from dbyte.device import check_device
from dbyte.evaluate.harness import ColumnResult, correct_by_column, evaluate_tasks, teacher_lm
from dbyte.evaluate.lm import StudentLM, load_lm
from dbyte.evaluate.stats import Interval, difference, paired_difference, retention
from dbyte.model.teacher import load_teacher
from dbyte.paths import RUNS
from dbyte.report.provenance import environment
from dbyte.report.tables import markdown
from dbyte.tasks import suite
from dbyte.tasks.column import HarnessTask


@dataclass(frozen=True)
class Evaluated:
    """What was asked, and the results of student and teacher by task (empty for the one that was not asked)."""

    asked: dict
    student: dict[str, ColumnResult]
    teacher: dict[str, ColumnResult]
    facts: dict

    def table(self) -> str:
        """The results as a GitHub table: accuracies in percent with errors, differences with intervals."""
        rows = [self._row(name) for name in (self.student or self.teacher)]
        lines = [markdown(pd.DataFrame(rows)), *self.facts["notes"]]
        if self.student and self.teacher:
            lines.insert(1, f"All tasks alike: student - teacher {_shown(self.compared())} points, retention "
                            f"{_shown(self.kept()) if self.kept() else 'not defined: the teacher has nothing right'} "
                            "percent (95 % intervals, paired bootstrap over items)")
        return "\n".join(lines)

    def _row(self, name: str) -> dict:
        one = (self.student or self.teacher)[name]
        row = {"task": name, "metric": one.metric, "n": one.n, "chance": f"{100 * one.chance:.1f}"}
        for who, results in (("student", self.student), ("teacher", self.teacher)):
            if results:
                row[who] = f"{100 * results[name].accuracy:.1f} ± {100 * results[name].stderr:.1f}"
        if self.student and self.teacher:
            row["student - teacher"] = _shown(self.compared(name))
        return row

    def compared(self, name: str | None = None) -> Interval:
        """Student minus teacher in points, on a task or on the average of all (None), with its paired interval."""
        student = correct_by_column(self.student)
        teacher = correct_by_column(self.teacher)
        if name is None:
            return difference(student, teacher, seed=self.asked["seed"])
        return paired_difference(student[name], teacher[name], seed=self.asked["seed"])

    def kept(self) -> Interval | None:
        """Student over teacher in percent, on the average of all tasks; None where the teacher has nothing right."""
        if not any(any(result.correct) for result in self.teacher.values()):
            return None
        return retention(correct_by_column(self.student), correct_by_column(self.teacher), seed=self.asked["seed"])

    def as_json(self) -> dict:
        """All of it as JSON types."""
        found = {"asked": self.asked, "facts": self.facts}
        for who, results in (("student", self.student), ("teacher", self.teacher)):
            if results:
                found[who] = {name: result.as_json() for name, result in results.items()}
        if self.student and self.teacher:
            kept = self.kept()
            found["difference"] = {name: asdict(self.compared(name)) for name in self.student}
            found["average difference"] = asdict(self.compared())
            found["retention"] = None if kept is None else asdict(kept)
        return found

    def write(self, path: Path | None = None) -> Path:
        """Write the JSON, by default to runs/evaluated/<hash of what was asked>.json, and return the path."""
        digest = hashlib.sha256(json.dumps(self.asked, sort_keys=True).encode()).hexdigest()[:12]
        path = path or RUNS / "evaluated" / f"{digest}.json"
        atomic_write(path, json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n")
        return path


def evaluated(
    *, model: str | None, teacher: str | None, tasks: Sequence[str], data: Path | None = None,
    boundaries: str | None = None, stage: int | None = None, beam: int = 0, limit: int | None = None, seed: int = 0,
    rows: int = 64, device: str = "cpu",
) -> Evaluated:
    """Score a student's folder, a teacher's, or both on the same items; arguments and errors as of the command line.

    Tasks and models are checked before anything is scored.
    """
    check_device(device)
    asked = {"model": model, "teacher": teacher, "tasks": list(tasks), "data": data and str(data), "stage": stage,
             "boundaries": boundaries, "beam": beam, "limit": limit, "seed": seed}
    chosen = suite.tasks(tasks, limit=limit, seed=seed, data=data)
    student_lm = model and load_lm(model, stage=stage, boundaries=boundaries, beam=beam, rows=rows, device=device)
    taught_lm = teacher and teacher_lm(*load_teacher(_teacher(teacher), device=device), device=device)
    student, seconds = _timed(student_lm, chosen)
    taught, teacher_seconds = _timed(taught_lm, chosen)
    items = sum(result.n for result in (student or taught).values())
    facts = {"items": items, "seconds": {"student": seconds, "teacher": teacher_seconds},
             "environment": environment(device), "notes": _notes(student_lm, items, seconds, teacher_seconds)}
    if student_lm:
        facts["read"] = student_lm.get_model_info()
    return Evaluated(asked, student, taught, facts)


def _teacher(name: str) -> str:
    """The name, unless that folder holds a student, which has no tokens to be compared with."""
    config = Path(name) / "config.json"
    if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("model_type") == "dbyte":
        raise ValueError(f"{name} holds a student, which is no teacher: give it as --model")
    return name


def _timed(lm, chosen: list[HarnessTask]) -> tuple[dict[str, ColumnResult], float | None]:
    if not lm:
        return {}, None
    started = time.monotonic()
    return evaluate_tasks(lm, chosen), time.monotonic() - started


def _notes(lm: StudentLM | None, items: int, seconds: float | None, teacher_seconds: float | None) -> list[str]:
    """What a reader of the table must know."""
    notes = [f"{who}: {items} items in {took:.0f} s, {items / took:.1f} a second"
             for who, took in (("student", seconds), ("teacher", teacher_seconds)) if took]
    if lm:
        score = ("log P(tokens)" if lm.stage == 1 else
                 "log p(bytes)" if lm.boundaries == "own" else
                 f"the bound of a beam of {lm.beam} over flags" if lm.beam else "the joint score, a bound")
        notes.append(f"student: Stage {lm.stage}, {lm.boundaries}'s boundaries, scored by {score}; {lm.truncated}")
    return notes


def _shown(interval: Interval) -> str:
    return f"{interval.value:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"
