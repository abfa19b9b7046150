"""A plan of runs: what each step would train or find, before anything is trained."""

from dataclasses import dataclass, field
from pathlib import Path

from dbyte.distill.loader import Feed, StreamFeed
from dbyte.distill.runs import Run
from dbyte.distill.steps import Step


@dataclass(frozen=True)
class PlannedRun:
    """A step and the run that it becomes.

    run: None if the address is not known yet, because the teacher is not trained; then feed is None too. feed: the rows
    that the step reads. teacher: the student's, or the one that a teacher continues, as a folder or hub name.
    predictions: the model whose predictions Eq. 3 takes, None: the teacher.
    """

    step: Step
    run: Run | None
    feed: Feed | StreamFeed | None = field(default=None, repr=False, compare=False)
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
