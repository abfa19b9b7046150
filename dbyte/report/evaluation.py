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
from dbyte.distill.runs import model_folder
from dbyte.evaluate.harness import ColumnResult, correct_by_column, evaluate_tasks, teacher_lm
from dbyte.evaluate.lm import StudentLM, load_lm
from dbyte.evaluate.stats import AVERAGE, Interval, difference, of_task, retention
from dbyte.model.teacher import load_teacher
from dbyte.paths import RUNS
from dbyte.report.provenance import environment
from dbyte.report.tables import markdown
from dbyte.tasks import suite


@dataclass(frozen=True)
class Evaluated:
    """What was asked, and the results by task of "student" and "teacher", or of the one that was asked."""

    asked: dict
    results: dict[str, dict[str, ColumnResult]]
    facts: dict

    def table(self) -> str:
        """The results as a GitHub table: accuracies in percent with errors, differences with intervals."""
        rows = []
        for task, one in next(iter(self.results.values())).items():
            row = {"task": task, "metric": one.metric, "n": one.n, "chance": f"{100 * one.chance:.1f}"}
            for who, results in self.results.items():
                row[who] = f"{100 * results[task].accuracy:.1f} ± {100 * results[task].stderr:.1f}"
            if len(self.results) == 2:
                row["student - teacher"] = _shown(self.compared(task))
            rows.append(row)
        lines = [markdown(pd.DataFrame(rows))]
        if len(self.results) == 2:
            kept = self.kept()
            lines.append(f"All tasks alike: student - teacher {_shown(self.compared())} points, retention "
                         f"{_shown(kept) if kept else 'not defined: the teacher has nothing right'} "
                         "percent (95 % intervals, paired bootstrap over items)")
        return "\n".join([*lines, *self.facts["notes"]])

    def compared(self, task: str = AVERAGE) -> Interval:
        """Student minus teacher in points, on a task or on the average of all, with its paired interval."""
        student, teacher = (of_task(correct_by_column(self.results[who]), task) for who in ("student", "teacher"))
        return difference(student, teacher, seed=self.asked["seed"])

    def kept(self) -> Interval | None:
        """Student over teacher in percent, on the average of all tasks; None where the teacher has nothing right."""
        student, teacher = (correct_by_column(self.results[who]) for who in ("student", "teacher"))
        return retention(student, teacher, seed=self.asked["seed"]) if any(map(any, teacher.values())) else None

    def as_json(self) -> dict:
        """All of it as JSON types."""
        found = {"asked": self.asked, "facts": self.facts}
        for who, results in self.results.items():
            found[who] = {task: asdict(result) for task, result in results.items()}
        if len(self.results) == 2:
            kept = self.kept()
            found["difference"] = {task: asdict(self.compared(task)) for task in self.results["student"]}
            found["average difference"] = asdict(self.compared())
            found["retention"] = kept and asdict(kept)
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
    lms = {}
    if model:
        lms["student"] = load_lm(model, stage=stage, boundaries=boundaries, beam=beam, rows=rows, device=device)
    if teacher:
        lms["teacher"] = teacher_lm(*load_teacher(model_folder(Path(teacher)), device=device), device=device)
    results = {}
    seconds = dict.fromkeys(("student", "teacher"))
    for who, lm in lms.items():
        started = time.monotonic()
        results[who] = evaluate_tasks(lm, chosen)
        seconds[who] = time.monotonic() - started
    items = sum(result.n for result in next(iter(results.values())).values())
    notes = [f"{who}: {items} items in {seconds[who]:.0f} s, {items / seconds[who]:.1f} a second" for who in lms]
    facts = {"items": items, "seconds": seconds, "environment": environment(device), "notes": notes}
    if model:
        notes.append(_how(lms["student"]))
        facts["read"] = lms["student"].get_model_info()
    return Evaluated(asked, results, facts)


def _how(lm: StudentLM) -> str:
    """What a reader of the table must know of the student's scores."""
    score = ("log P(tokens)" if lm.stage == 1 else
             "log p(bytes)" if lm.boundaries == "own" else
             f"the bound of a beam of {lm.beam} over flags" if lm.beam else "the joint score, a bound")
    return f"student: Stage {lm.stage}, {lm.boundaries}'s boundaries, scored by {score}; {lm.truncated}"


def _shown(interval: Interval) -> str:
    return f"{interval.value:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"
