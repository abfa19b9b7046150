"""Errors over seeds and items together: what another training run and other items would have moved.

Students of several seeds answer the same items, so the two sources add up: the spread between seeds, of which there are
few (hence Student's t), and the items, resampled in pairs as in stats.py with each item's answers averaged over seeds.

    half width^2 = (t(S - 1) s / sqrt(S))^2 + (half width over items)^2

With one seed there is no spread to see, and the interval is over items alone: a table says how many seeds it had.
Legend: S seeds.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import t as student_t

from dbyte.evaluate import stats
from dbyte.evaluate.stats import Columns, Interval

LEVEL, Z95 = 0.95, 1.96


def difference(first_S: Sequence[Columns], second_S: Sequence[Columns]) -> Interval:
    """First minus second average over columns, in points, with its 95 % interval over seeds and items.

    Seeds are paired in order. ValueError if there are none, or not as many on both sides, or other items.
    """
    if not first_S or len(first_S) != len(second_S):
        raise ValueError(f"a difference over seeds needs as many seeds on both sides, found {len(first_S)} and "
                         f"{len(second_S)}")
    found = stats.difference(_averaged(first_S), _averaged(second_S), level=LEVEL)
    return _widened(found, [_mean(first) - _mean(second) for first, second in zip(first_S, second_S, strict=True)])


def retention(student_S: Sequence[Columns], teacher: Columns) -> Interval:
    """Students' average over their one teacher's, in percent, with its 95 % interval over seeds and items."""
    found = stats.retention(_averaged(student_S), teacher, level=LEVEL)
    return _widened(found, [_mean(student) / _mean(teacher) for student in student_S])


def accuracy(correct_S: Sequence[Sequence[float]]) -> Interval:
    """Accuracy on one column in percent, averaged over seeds, with its 95 % interval over seeds and items."""
    item_N = np.mean([np.asarray(correct, dtype=float) for correct in correct_S], axis=0)
    over_items = Z95 * float(item_N.std(ddof=1)) / math.sqrt(len(item_N)) if len(item_N) > 1 else 0.0
    half = 100 * math.hypot(over_items, _half_over_seeds([float(np.mean(correct)) for correct in correct_S]))
    value = 100 * float(item_N.mean())
    return Interval(value, value - half, value + half)


def mean(value_S: Sequence[float]) -> Interval:
    """The mean of one number a seed with its 95 % interval (Student's t); one seed has no interval (nan ends)."""
    half = _half_over_seeds(value_S) if len(value_S) > 1 else math.nan
    value = float(np.mean(value_S))
    return Interval(value, value - half, value + half)


def _widened(over_items: Interval, value_S: Sequence[float]) -> Interval:
    """An interval over items with the spread between seeds (of shares, not percent) added."""
    half = math.hypot((over_items.high - over_items.low) / 2, 100 * _half_over_seeds(value_S))
    return Interval(over_items.value, over_items.value - half, over_items.value + half)


def _half_over_seeds(value_S: Sequence[float]) -> float:
    S = len(value_S)
    return float(student_t.ppf((1 + LEVEL) / 2, S - 1) * np.std(value_S, ddof=1) / math.sqrt(S)) if S > 1 else 0.0


def _averaged(columns_S: Sequence[Columns]) -> Mapping[str, np.ndarray]:
    if len({tuple(sorted((name, len(items)) for name, items in columns.items())) for columns in columns_S}) != 1:
        raise ValueError("every seed needs the same columns with the same items: measure all with one limit")
    return {name: np.mean([columns[name] for columns in columns_S], axis=0) for name in columns_S[0]}


def _mean(columns: Columns) -> float:
    return float(np.mean([np.mean(correct) for correct in columns.values()]))
