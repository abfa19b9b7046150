"""Beyond one comparison: several seeds of one number, several teachers with several students, several claims.

Legend: T teachers, S students of each, R resamples, K claims.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from dbyte.evaluate import stats
from dbyte.evaluate.stats import (
    LEVEL,
    Z95,
    Columns,
    Interval,
    averaged,
    difference,
    half_over_seeds,
    mean_of_columns,
    mean_of_items,
)


def accuracy_over_seeds(correct_S: Sequence[Sequence[float]]) -> Interval:
    """Accuracy on one column in percent, averaged over seeds, with its 95 % interval over seeds and items."""
    over_items = mean_of_items(averaged([{"": correct} for correct in correct_S])[""])
    half = 100 * math.hypot(Z95 * over_items.stderr, half_over_seeds([float(np.mean(each)) for each in correct_S]))
    value = 100 * over_items.value
    return Interval(value, value - half, value + half)


def mean_over_seeds(value_S: Sequence[float]) -> Interval:
    """The mean of one number per seed with its 95 % interval (Student's t); one seed has no interval (nan ends)."""
    half = half_over_seeds(value_S) if len(value_S) > 1 else math.nan
    value = float(np.mean(value_S))
    return Interval(value, value - half, value + half)


def nested_difference(
    student_TS: Sequence[Sequence[Columns]], teacher_T: Sequence[Columns], *, seed: int = 0
) -> Interval:
    """Student minus teacher average in points over T teachers with S students each, all asked the same items.

    A nested bootstrap draws teachers, and for each of them students; its spread is that of few draws, hence
    t(T - 1) sqrt(T / (T - 1)), and the items' interval adds in squares. ValueError for fewer than two teachers.
    """
    if len(teacher_T) < 2 or len({len(student_S) for student_S in student_TS}) != 1:
        raise ValueError(f"expected at least two teachers with as many students each, found {len(teacher_T)} with "
                         f"{[len(student_S) for student_S in student_TS]}")
    flat = [student for student_S in student_TS for student in student_S]
    over_items = difference(averaged(flat), averaged(teacher_T), seed=seed)
    value_TS = 100 * np.array([[mean_of_columns(student) - mean_of_columns(teacher) for student in student_S]
                               for student_S, teacher in zip(student_TS, teacher_T, strict=True)])
    teachers, students = value_TS.shape
    rng = np.random.default_rng(seed)
    teacher_RT1 = rng.integers(teachers, size=(stats.RESAMPLES, teachers, 1))
    drawn_RTS = value_TS[teacher_RT1, rng.integers(students, size=(stats.RESAMPLES, teachers, students))]
    spread = float(drawn_RTS.mean(axis=(1, 2)).std()) * math.sqrt(teachers / (teachers - 1))
    half = math.hypot((over_items.high - over_items.low) / 2,
                      float(student_t.ppf((1 + LEVEL) / 2, teachers - 1)) * spread)
    return Interval(over_items.value, over_items.value - half, over_items.value + half)


def p_value(found: Interval, threshold: float = 0.0) -> float:
    """The two-sided p of "the value is the threshold", by the normal error that an interval of this width has."""
    return float(2 * norm.sf(abs(found.value - threshold) * 2 * Z95 / (found.high - found.low)))


def holm(p_K: Sequence[float]) -> list[float]:
    """Holm's adjusted p of a family of K claims, in their order: all below alpha at once, with an error of alpha."""
    order_K = np.argsort(p_K, kind="stable")
    stepped_K = np.maximum.accumulate(np.asarray(p_K, dtype=float)[order_K] * np.arange(len(p_K), 0, -1))
    adjusted_K = np.empty(len(p_K))
    adjusted_K[order_K] = np.minimum(stepped_K, 1.0)
    return adjusted_K.tolist()
