"""A plan of runs: what each step would train or find, before anything is trained."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbyte.distill.run_list import aligned
from dbyte.distill.runs import Run
from dbyte.distill.steps import Step
from dbyte.text.packing import Rows


@dataclass(frozen=True)
class PlannedRun:
    """A step and the run that it becomes.

    run: None if the address is not known yet, because the teacher is not trained. rows: what the step reads, None: a
    stream. student: the student's config. teacher: the student's, or the one that a teacher continues, as a folder or
    hub name. predictions: the model whose predictions Eq. 3 takes, None: the teacher.
    """

    step: Step
    run: Run | None
    rows: Rows | None = field(default=None, repr=False, compare=False)
    student: Mapping[str, object] = field(default_factory=dict, repr=False)
    teacher: Path | None = None
    predictions: Path | None = None

    @property
    def address(self) -> str | None:
        """The name of the run's folder."""
        return self.run.folder.name if self.run else None

    @property
    def parent(self) -> str | None:
        """The name of the folder of the run that this one continues."""
        return self.run.parent.folder.name if self.run and self.run.parent else None

    @property
    def status(self) -> str:
        """`complete`, or what would be trained: `new`, `resumable` or `damaged`."""
        return self.run.status() if self.run else "new"


def plan_table(planned: Iterable[PlannedRun]) -> str:
    """One line a run: step, address, parent, megabytes of text, status."""
    rows = [("step", "run", "from", "MB", "status")]
    for one in planned:
        address = one.address or "after the teacher"
        rows.append((one.step.name, address, one.parent or "", f"{one.step.train_bytes / 1e6:,.2f}", one.status))
    return aligned(rows, numbers=(3,))
