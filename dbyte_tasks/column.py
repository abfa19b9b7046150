"""What a column of a results table is: its rows, how the harness reads them, and what guessing would score."""

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random


@dataclass(frozen=True)
class HarnessTask:
    """A column as lm-evaluation-harness runs it.

    config: the task's config dict, under `name`. metric: which of its numbers per item, 0 or 1, is the column's (of its
    first filter, where it has several). chance: what guessing scores, 0 to 1. limit: how many of the first items are
    asked; None: all.
    """

    name: str
    metric: str
    chance: float
    config: dict
    limit: int | None = None


@dataclass(frozen=True)
class Column:
    """One benchmark column of the paper's tables, at the size of the built-in world.

    draw(rng) yields different rows (dicts of strings, integers and lists of strings). harness holds the
    lm-evaluation-harness options that turn a row into requests. chance is the accuracy of guessing, 0 to 1; available
    is the number of different rows, and default how many are drawn if no number is given. together(rng) yields for each
    row what it shares with others, such as the fact that it asks for; None: nothing. Raises ValueError where these
    contradict each other.
    """

    name: str
    metric: str
    chance: float
    default: int
    available: int
    draw: Callable[[Random], Iterator[dict]]
    harness: dict
    together: Callable[[Random], Iterator[Hashable]] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.default <= self.available:
            raise ValueError(f"{self.name}: default {self.default} is not in 1..{self.available}, the rows there are")
        if not 0 <= self.chance < 1:
            raise ValueError(f"{self.name}: chance must lie in [0, 1), got {self.chance}")

    def items(self, n: int | None = None, *, seed: int = 0) -> list[dict]:
        """The first n rows of the column, or its default number for None; the same seed gives the same rows.

        A smaller n is a prefix of a larger one. Raises ValueError if n is not in 1..available.
        """
        n = self.default if n is None else n
        if not 0 < n <= self.available:
            raise ValueError(f"{self.name} has {self.available} items, asked for {n}: choose a limit within that")
        return list(islice(self.draw(Random(f"{self.name} {seed}")), n))

    def clusters(self, n: int, *, seed: int = 0) -> list[Hashable]:
        """For each of `items(n)` the cluster that it is drawn with; rows that share nothing are their own clusters."""
        return list(islice(self.together(Random(f"{self.name} {seed}")), n)) if self.together else list(range(n))

    def as_task(self, limit: int | None = None, *, seed: int = 0) -> HarnessTask:
        """The column with `limit` items: its default number for None, all it has if those are fewer."""
        limit = min(at_least_one(limit) or self.default, self.available)
        config = harness_config(self.name, lambda: self.items(limit, seed=seed), self.harness, metric=self.metric)
        return HarnessTask(self.name, self.metric, self.chance, config)


def harness_config(name: str, rows: Callable[[], list[dict]], options: dict, *, metric: str, **how: object) -> dict:
    """The config dict of an lm-evaluation-harness task that asks `rows`, which loads no file and needs no network."""
    return {
        "task": name,
        # The harness passes its own metadata along; the rows do not depend on it.
        "custom_dataset": lambda **_: datasets_of({"test": rows()}),
        "test_split": "test",
        "num_fewshot": 0,
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True, **how}],
        **options,
    }


def at_least_one(limit: int | None) -> int | None:
    """Return the number of items per column, or None; ValueError if it is below 1."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 item per column, found {limit}")
    return limit


def items_hash(items: list[dict]) -> str:
    """sha256 of the rows as canonical JSON: two results with the same hash answered the same questions."""
    return hashlib.sha256(json.dumps(items, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def datasets_of(splits: dict[str, list[dict]]) -> dict:
    """The rows of each split as a `datasets.Dataset`, which the harness reads."""
    from datasets import Dataset

    return {split: Dataset.from_list(rows) for split, rows in splits.items()}


class Marks(tuple):
    """Answers [N], each 0 to 1, and with `in_clusters` what each is drawn with, such as the fact that it asks for."""

    clusters: tuple = ()

    @classmethod
    def in_clusters(cls, answers: Iterable[float], clusters: Iterable[Hashable]) -> "Marks":
        marks = cls(answers)
        marks.clusters = tuple(clusters)
        if len(marks.clusters) not in (0, len(marks)):
            raise ValueError(f"expected a cluster for each of {len(marks)} answers, found {len(marks.clusters)}")
        return marks
