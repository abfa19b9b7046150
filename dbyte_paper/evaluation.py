"""One call that scores a student and its teacher on the same items, as a table and as JSON.

Every accuracy comes with its standard error and number of items; student minus teacher is compared item by item, with a
paired bootstrap interval; averages weigh tasks equally. The JSON holds every item's right and wrong, the hash of the
items, versions, seeds and times, and how much context did not fit.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from dbyte.atomic import atomic_write
from dbyte.device import check_device
from dbyte.distill.teacher_source import teacher_folder
from dbyte.evaluate.harness import correct_by_column, evaluate_tasks, teacher_lm
from dbyte.evaluate.lm import StudentLM, load_lm
from dbyte.evaluate.stats import AVERAGE, Columns, difference, of_task, retention
from dbyte.model.teacher import load_teacher
from dbyte.paths import RUNS
from dbyte_paper.provenance import environment
from dbyte_paper.tables import markdown, with_error
from dbyte_tasks import suite


def evaluated(
    *, model: str | None, teacher: str | None, tasks: Sequence[str], data: Path | None = None,
    boundaries: str | None = None, stage: int | None = None, beam: int = 0, limit: int | None = None, seed: int = 0,
    rows: int = 64, device: str = "cpu",
) -> dict:
    """Score a student's folder, a teacher's, or both on the same items; arguments and errors as of the command line.

    Returns JSON types: what was asked, facts, the results by task of "student" and "teacher", or of the one that was
    asked, and what `compared` says of the two. Tasks and models are checked before anything is scored.
    """
    check_device(device)
    asked = {"model": model, "teacher": teacher, "tasks": list(tasks), "data": data and str(data), "stage": stage,
             "boundaries": boundaries, "beam": beam, "limit": limit, "seed": seed}
    chosen = suite.tasks(tasks, limit=limit, seed=seed, data=data)
    lms = {}
    if model:
        lms["student"] = load_lm(model, stage=stage, boundaries=boundaries, beam=beam, rows=rows, device=device)
    if teacher:
        lms["teacher"] = teacher_lm(*load_teacher(teacher_folder(teacher), device=device), device=device)
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
    found = {"asked": asked, "facts": facts}
    for who, columns in results.items():
        found[who] = {task: asdict(result) for task, result in columns.items()}
    return found | (compared(*map(correct_by_column, results.values()), seed=seed) if len(results) == 2 else {})


def compared(student: Columns, teacher: Columns, *, seed: int) -> dict:
    """Return student minus teacher in points, task by task and on average, and retention in percent, with intervals.

    Retention is None where the teacher has nothing right.
    """
    by_task = {task: asdict(difference(of_task(student, task), of_task(teacher, task), seed=seed))
               for task in (*student, AVERAGE)}
    kept = retention(student, teacher, seed=seed) if any(map(any, teacher.values())) else None
    return {"difference": by_task, "average difference": by_task.pop(AVERAGE), "retention": kept and asdict(kept)}


def table(found: Mapping) -> str:
    """Return what `evaluated` found as a GitHub table: accuracies (%) with errors, differences with intervals."""
    results = {who: found[who] for who in ("student", "teacher") if who in found}
    rows = []
    for task, one in next(iter(results.values())).items():
        row = {"task": task, "metric": one["metric"], "n": one["n"], "chance": f"{100 * one['chance']:.1f}"}
        for who, columns in results.items():
            row[who] = with_error(100 * columns[task]["accuracy"], 100 * columns[task]["stderr"])
        if "difference" in found:
            row["student - teacher"] = _shown(found["difference"][task])
        rows.append(row)
    lines = [markdown(pd.DataFrame(rows))]
    if "difference" in found:
        kept = found["retention"]
        lines.append(f"All tasks, weighted equally: student - teacher {_shown(found['average difference'])} points, "
                     f"retention {_shown(kept) if kept else 'not defined: the teacher has nothing right'} "
                     "percent (95 % intervals, paired bootstrap over items)")
    return "\n".join([*lines, *found["facts"]["notes"]])


def write(found: Mapping, path: Path | None = None) -> Path:
    """Write the JSON, by default to runs/evaluated/<hash of what was asked>.json, and return the path."""
    digest = hashlib.sha256(json.dumps(found["asked"], sort_keys=True).encode()).hexdigest()[:12]
    path = path or RUNS / "evaluated" / f"{digest}.json"
    atomic_write(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return path


def _how(lm: StudentLM) -> str:
    """What a reader of the table must know of the student's scores."""
    score = ("log P(tokens)" if lm.stage == 1 else
             "log p(bytes)" if lm.boundaries == "own" else
             f"the bound of a beam of {lm.beam} over flags" if lm.beam else "the joint score, a bound")
    return f"student: Stage {lm.stage}, {lm.boundaries}'s boundaries, scored by {score}; {lm.truncated}"


def _shown(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:+.1f} [{interval['low']:+.1f}, {interval['high']:+.1f}]"
