"""Evaluation: items a second of a student under the harness, against its teacher under the harness's own adapter.

    python benchmarks/evaluation.py                           models of the runs of scale small; writes evaluation.md
    python benchmarks/evaluation.py --folders TEACHER STAGE1 JBP [MBP]   these models
    OMP_NUM_THREADS=1 python benchmarks/evaluation.py --cpu   by CPU seconds, where others keep the machine busy
    python benchmarks/evaluation.py --items 4 --columns LMB,GSM8K --rounds 1 --no-report         only that it runs

All nine columns of the paper's tables, as MiniBench has them, whether the models were trained for them or not: what a
column costs does not depend on it, except for own boundaries, which take more rounds where they are not the router's.
Along own boundaries there is no goal. An adapter's seconds are those inside `loglikelihood` and `generate_until`; all
seconds are what a user waits for, with the harness's own work, models loaded. The teacher has, column by column, the
batch size that was best for it. All are timed in turn in one process, after a short call of each, in which code is
compiled.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from measuring import begin, machine, write

from dbyte import presets
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.harness import evaluate_tasks, teacher_lm
from dbyte.evaluate.lm import load_lm
from dbyte.model.teacher import load_teacher
from dbyte_tasks import minibench
from dbyte_tasks.column import HarnessTask

SCALE, ITEMS, ROUNDS = "small", 500, 3
COLUMNS = [name for name in minibench.EVERY if name != "SPELL"]  # the paper's nine
BATCHES = (16, 32, 64, 128)
READINGS = {"Stage 1, router": (0, "router"), "Stage 1, tokenizer": (0, "tokenizer"), "JBP, router": (1, "router"),
            "JBP, own boundaries": (1, "own"), "MBP, own boundaries": (2, "own")}  # which student, which boundaries
HALF = 0.5  # the goal, of the teacher's items a second
LIMIT = 180.0  # and seconds for all columns


def mini(column: str, items: int) -> HarnessTask:
    """The first items of a column of MiniBench."""
    return minibench.EVERY[column].as_task(items)


@dataclass
class Timed:
    """An adapter whose calls are timed: the seconds inside it of each round, and all seconds, by column."""

    lm: object
    clock: Callable[[], float]
    task: Callable[[str, int], HarnessTask] = mini
    inside: float = 0.0
    calls: dict[str, list[float]] = field(default_factory=dict)
    wholes: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("loglikelihood", "generate_until"):
            setattr(self.lm, name, self._noting(getattr(self.lm, name)))

    def _noting(self, call: Callable) -> Callable:
        def noted(*given, **options):
            started = self.clock()
            try:
                return call(*given, **options)
            finally:
                self.inside += self.clock() - started

        return noted

    def ask(self, column: str, items: int, *, count: bool = True) -> int:
        """Answer a column; how many items it has."""
        self.inside = 0.0
        started = self.clock()
        answered = evaluate_tasks(self.lm, [self.task(column, items)])[column].n
        if count:
            self.calls.setdefault(column, []).append(self.inside)
            self.wholes.setdefault(column, []).append(self.clock() - started)
        return answered


def models(folders: list[str] | None) -> list[Path]:
    """The folders of a teacher, a student of Stage 1, one with JBP and one with MBP; trains what is missing."""
    if folders:
        return [Path(folder) for folder in folders]
    scale = presets.scale(SCALE)
    jbp, mbp = (run_steps(scale, curriculum(scale, decoding=decoding), seed=0) for decoding in (None, "mbp"))
    stage1 = next(run for run in reversed(jbp) if run.facts()["step"].startswith("1."))
    return [teacher_run(scale, seed=0), stage1.model_folder, jbp[-1].model_folder, mbp[-1].model_folder]


def timed(lms: dict[str, Timed], columns: list[str], *, items: int, rounds: int) -> dict[str, int]:
    """Ask all of them every column, in turn; how many items each column has."""
    counts = {}
    for column in columns:
        for one in lms.values():
            one.ask(column, 2, count=False)
        for _ in range(rounds):
            counts[column] = {one.ask(column, items) for one in lms.values()}.pop()
    return counts


def report(arguments: argparse.Namespace) -> str:
    teacher, *students = models(arguments.folders)
    loaded = load_teacher(teacher)
    columns = arguments.columns.split(",")
    clock = time.process_time if arguments.cpu else time.perf_counter
    teachers = {batch: Timed(teacher_lm(*loaded, batch_size=batch), clock) for batch in BATCHES}
    lms = {name: Timed(load_lm(students[which], boundaries=boundaries), clock)
           for name, (which, boundaries) in READINGS.items() if which < len(students)}
    counts = timed(teachers | lms, columns, items=arguments.items, rounds=arguments.rounds)
    names = ", ".join(folder.parent.name for folder in (teacher, *students))
    return "\n".join([
        f"Evaluation: models of the runs {names}; {arguments.items} items a column, or all it has. {machine()}; "
        f"medians of {arguments.rounds} rounds in turn, by {'CPU' if arguments.cpu else 'wall'} seconds. A student's "
        "numbers are items a second over the teacher's.", "",
        *table(teachers, lms, counts), "", *(goals(name, lms[name], teachers, columns) for name in lms)])


def table(teachers: dict[int, Timed], lms: dict[str, Timed], counts: dict[str, int]) -> list[str]:
    """A row a column, and one for all of them."""
    rows = ["| column | items | teacher, items/s | its batch | " + " | ".join(lms) + " |",
            "|---|---:|---:|---:|" + "---:|" * len(lms)]
    for column, count in counts.items():
        best = min(teachers, key=lambda batch: median(teachers[batch].calls[column]))
        rows.append(_row(column, count, seconds(teachers.values(), [column]), best, lms, [column]))
    fastest = seconds(teachers.values(), list(counts))
    return [*rows, _row("all", sum(counts.values()), fastest, "best of each", lms, list(counts))]


def _row(name: str, count: int, teacher: float, best: object, lms: dict[str, Timed], columns: list[str]) -> str:
    ratios = " | ".join(f"{teacher / seconds([lm], columns):.2f}" for lm in lms.values())
    return f"| {name} | {count} | {count / teacher:,.0f} | {best} | {ratios} |"


def seconds(several: Iterable[Timed], columns: list[str]) -> float:
    """Seconds inside for these columns, each by whoever of them is the quickest in it."""
    several = list(several)
    return sum(min(median(one.calls[column]) for one in several) for column in columns)


def goals(name: str, lm: Timed, teachers: dict[int, Timed], columns: list[str]) -> str:
    """Whether a reading meets them, as a line."""
    def ratio(some: list[str]) -> float:
        return seconds(teachers.values(), some) / seconds([lm], some)

    if "own" in name:
        return f"- {name}: {ratio(columns):.2f} of the teacher's items a second over all columns (no goal)."
    missed = [column for column in columns if ratio([column]) < HALF]
    whole = sum(median(lm.wholes[column]) for column in columns)
    return (f"- {name}: {ratio(columns):.2f} of the teacher's items a second over all columns, goal {HALF}: "
            f"{_met(ratio(columns) >= HALF)}; column by column "
            f"{'missed on ' + ', '.join(missed) if missed else 'met on each'}. All columns in {whole:.1f} s, goal "
            f"{LIMIT:.0f} s: {_met(whole <= LIMIT)}.")


def _met(met: bool) -> str:
    return "met" if met else "missed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folders", nargs="+", metavar="FOLDER", help="these: teacher, Stage 1, JBP, perhaps MBP")
    parser.add_argument("--columns", default=",".join(COLUMNS), help="some of them, with commas between")
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, which mean something on one thread")
    parser.add_argument("--no-report", action="store_true", help="print alone")
    arguments = parser.parse_args()
    if arguments.folders and len(arguments.folders) not in (3, 4):
        parser.error(f"--folders takes 3 or 4 (teacher, Stage 1, JBP, perhaps MBP), found {len(arguments.folders)}")
    begin()
    text = report(arguments)
    if arguments.no_report:
        print(text)
    else:
        write(Path(__file__).with_suffix(".md"), text)


if __name__ == "__main__":
    main()
