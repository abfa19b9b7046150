"""Errors of accuracies, and verdicts on claims: seeded, over per-item vectors of right and wrong.

Teacher and student answer the same items, so differences and ratios are resampled by item in pairs: what makes an
item hard for both cancels. Averages over benchmark columns weigh each column alike (the paper's convention, Table 1)
and resample the items within each column. One model's accuracy is a share in [0, 1], as the harness reports it; a
comparison of two is in percentage points or percent, as the paper's tables print it. An item that was asked in several
ways (noise in several places) has the mean of its answers, between 0 and 1.

Students of several seeds answer the same items. Then two sources of error add up: the spread between seeds, of which
there are few (hence Student's t), and the items, each with its answers averaged over seeds:

    half width^2 = (t(S - 1) s / sqrt(S))^2 + (half width over items)^2

With one seed there is no spread to see, and the interval is over items alone: a table says how many seeds it had.

Legend: N items, R resamples, S seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

Columns = Mapping[str, Sequence[float]]  # column name -> per-item correctness, 0 or 1
Models = Columns | Sequence[Columns]  # one model, or one of each seed
AVERAGE = "average"  # of the columns, as a task in tidy rows
LEVEL = 0.95
Z95 = 1.96  # standard errors to either end of a normal 95 % interval


# -- one model --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A mean of N items, its standard error, and N."""

    value: float
    stderr: float
    n: int


@dataclass(frozen=True)
class Interval:
    """A point estimate with the ends of its confidence interval."""

    value: float
    low: float
    high: float


def proportion(correct: Sequence[float]) -> Estimate:
    """The share of ones in `correct` [N] with the standard error of a proportion, sqrt(p (1 - p) / (N - 1)).

    That is lm-evaluation-harness's own formula. At p = 0 or 1 it is 0 and says little: see `wilson`.
    ValueError if `correct` is empty or holds anything but 0 and 1.
    """
    correct_N = _vector(correct, name="correct")
    p = float(correct_N.mean())
    n = len(correct_N)
    return Estimate(p, float(np.sqrt(p * (1 - p) / max(n - 1, 1))), n)


def mean_of_items(answers: Sequence[float]) -> Estimate:
    """The mean of answers [N] between 0 and 1, with its standard error over items."""
    answers_N = np.asarray(answers, dtype=float)
    n = len(answers_N)
    return Estimate(float(answers_N.mean()), float(answers_N.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0, n)


def wilson(correct: Sequence[float], *, z: float = Z95) -> Interval:
    """The share of ones in `correct` [N] with Wilson's score interval, which is not empty at 0 or 1."""
    correct_N = _vector(correct, name="correct")
    p = float(correct_N.mean())
    n = len(correct_N)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Interval(p, float(min(p, centre - half)), float(max(p, centre + half)))


def ratio_of_sums(over: Sequence[float], under: Sequence[float]) -> Estimate:
    """Sum of `over` [N] by sum of `under` [N], its error over N independent clusters, such as the texts counted in.

    What is counted in one text comes together, so its parts are no items of their own. First order (linearised); the
    error is nan for one cluster, which says nothing on how clusters differ. ValueError if `under` sums to 0.
    """
    value, pull_N = _pulls(over, under)
    return Estimate(value, _spread(pull_N), len(pull_N))


def ratio_difference(
    first: tuple[Sequence[float], Sequence[float]], second: tuple[Sequence[float], Sequence[float]]
) -> Estimate:
    """The first ratio of sums (over, under) minus the second over the same clusters, whose errors may cancel."""
    one, one_N = _pulls(*first)
    other, other_N = _pulls(*second)
    return Estimate(one - other, _spread(one_N - other_N), len(one_N))


def _pulls(over: Sequence[float], under: Sequence[float]) -> tuple[float, np.ndarray]:
    """A ratio of sums, and how far each cluster [N] pulls it from where the others would leave it."""
    over_N = np.asarray(over, np.float64)
    under_N = np.asarray(under, np.float64)
    if over_N.shape != under_N.shape or over_N.ndim != 1 or under_N.sum() == 0:
        raise ValueError(f"a ratio of sums needs two lists of one length and something under the bar, found "
                         f"{over_N.shape} and {under_N.shape} with the sum {under_N.sum():g}")
    value = over_N.sum() / under_N.sum()
    return float(value), (over_N - value * under_N) / under_N.sum()


def _spread(pull_N: np.ndarray) -> float:
    n = len(pull_N)
    return float(np.sqrt(n / (n - 1) * (pull_N**2).sum())) if n > 1 else math.nan


def accuracy_over_seeds(correct_S: Sequence[Sequence[float]]) -> Interval:
    """Accuracy on one column in percent, averaged over seeds, with its 95 % interval over seeds and items."""
    item_N = np.mean([np.asarray(correct, dtype=float) for correct in correct_S], axis=0)
    over_items = Z95 * float(item_N.std(ddof=1)) / math.sqrt(len(item_N)) if len(item_N) > 1 else 0.0
    half = 100 * math.hypot(over_items, _half_over_seeds([float(np.mean(correct)) for correct in correct_S]))
    value = 100 * float(item_N.mean())
    return Interval(value, value - half, value + half)


def mean_over_seeds(value_S: Sequence[float]) -> Interval:
    """The mean of one number a seed with its 95 % interval (Student's t); one seed has no interval (nan ends)."""
    half = _half_over_seeds(value_S) if len(value_S) > 1 else math.nan
    value = float(np.mean(value_S))
    return Interval(value, value - half, value + half)


# -- two models on the same items -------------------------------------------------------------------------------------


def paired_difference(
    student: Sequence[float], teacher: Sequence[float], *, seed: int = 0, resamples: int = 10_000, level: float = LEVEL
) -> Interval:
    """Student minus teacher accuracy on the same items [N], in points, with its paired bootstrap interval."""
    columns = {"items": student}, {"items": teacher}
    return difference(*columns, seed=seed, resamples=resamples, level=level)


def difference(
    student: Models, teacher: Models, *, seed: int = 0, resamples: int = 10_000, level: float = LEVEL
) -> Interval:
    """Student minus teacher average over columns, in points, with its paired bootstrap interval.

    With its sign turned it is the paper's average drop (Table 1). Two lists of models, paired by seed, give the
    interval over seeds and items.
    Raises:
        ValueError: if the two do not hold the same columns with the same numbers of items, or not as many seeds.
    """
    return _compared(student, teacher, np.subtract, seed=seed, resamples=resamples, level=level)


def retention(
    student: Models, teacher: Columns, *, seed: int = 0, resamples: int = 10_000, level: float = LEVEL
) -> Interval:
    """Student over teacher average over columns, in percent (100 keeps everything), with its paired bootstrap interval.

    A list of students, one a seed, against their one teacher gives the interval over seeds and items.
    Raises:
        ValueError: if the two do not hold the same columns with the same numbers of items, or if the teacher got
            nothing right, which leaves nothing to retain.
    """
    if not any(np.any(np.asarray(correct)) for correct in teacher.values()):
        raise ValueError("retention: the teacher has no correct item in any column, so a ratio has no meaning")
    if not isinstance(student, Mapping):
        teacher = [teacher] * len(student)
    return _compared(student, teacher, _ratio, seed=seed, resamples=resamples, level=level)


def kept_above_chance(
    noisy: Columns, clean: Columns, *, chance: float, seed: int = 0, resamples: int = 10_000, level: float = LEVEL
) -> Interval:
    """Eq. 5 (appendix A.1) over columns whose chance is `chance` on average, in percent, with its bootstrap interval.

    An item is drawn with its answers to clean and noisy text. nan where the clean accuracy is not above chance. A
    resample in which it is not says nothing on what is left, and counts as nothing left.
    """
    def kept(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        # means of a few items at chance may miss it by a rounding error, by which nothing may be divided
        return _ratio(one - chance, np.where(np.isclose(other, chance), 0.0, other - chance))

    found = _paired(noisy, clean, kept, seed=seed, resamples=resamples, level=level)
    accuracy = np.mean([np.mean(answers) for answers in clean.values()])
    return found if accuracy > chance and not np.isclose(accuracy, chance) else Interval(np.nan, np.nan, np.nan)


# -- claims -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """A directional claim and what the data say of it: "the value is above (or below) the threshold".

    n: the number of items. seed, resamples, level: of the bootstrap. verdict: "shown", "not shown" or "opposite".
    """

    claim: str
    interval: Interval
    threshold: float
    direction: str
    n: int
    seed: int
    resamples: int
    level: float

    def __post_init__(self) -> None:
        assert self.verdict  # a direction that does not exist is refused here, not when it is read

    @property
    def verdict(self) -> str:
        """See `verdict`."""
        return verdict(self.interval.low, self.interval.high, threshold=self.threshold, direction=self.direction)

    def __str__(self) -> str:
        return (f"{self.claim}: {self.interval.value:.4g}, {100 * self.level:g} % interval [{self.interval.low:.4g}, "
                f"{self.interval.high:.4g}], claimed {self.direction} {self.threshold:g}, n = {self.n}: {self.verdict}")


def judge(
    claim: str, first: Columns, second: Columns, *, statistic: str = "difference", direction: str = "above",
    threshold: float = 0.0, seed: int = 0, resamples: int = 10_000, level: float = LEVEL,
) -> Judgement:
    """Judge a claim on two models by their answers to the same items.

    statistic: "difference", the first's average minus the second's in points, or "retention", the first's over the
    second's in percent; the threshold is in the same unit.
    ValueError for another statistic or direction, and as of `difference` and `retention`.
    """
    statistics = {"difference": difference, "retention": retention}
    if statistic not in statistics:
        raise ValueError(f"unknown statistic {statistic!r}: choose one of {', '.join(statistics)}")
    interval = statistics[statistic](first, second, seed=seed, resamples=resamples, level=level)
    n = sum(len(correct) for correct in first.values())
    return Judgement(claim, interval, threshold, direction, n, seed, resamples, level)


def verdict(low: float, high: float, *, threshold: float = 0.0, direction: str = "above") -> str:
    """What an interval says on the claim "the value is above (or below) the threshold".

    "shown" if all of [low, high] is on the claim's side, "opposite" if all of it is on the other, else "not shown".
    ValueError if low > high, an end is not a number, or the direction is neither "above" nor "below".
    """
    if direction not in ("above", "below"):
        raise ValueError(f'direction must be "above" or "below", got {direction!r}')
    if not low <= high:
        raise ValueError(f"verdict needs low <= high, got low={low}, high={high}")
    above = low > threshold
    below = high < threshold
    claimed, denied = (above, below) if direction == "above" else (below, above)
    return "shown" if claimed else "opposite" if denied else "not shown"


def difference_rows(
    what: str, one: Columns, other: Columns, *, direction: str = "above", threshold: float = 0.0
) -> list[dict]:
    """Tidy rows of one - other in points, a row a column and one for their average, with the verdict on the claim."""
    rows = []
    for name in (*one, AVERAGE):
        sides = (one, other) if name == AVERAGE else ({name: one[name]}, {name: other[name]})
        found = judge(what, *sides, direction=direction, threshold=threshold)
        rows.append({"what": what, "task": name} | interval_row(found.interval, found.n)
                    | {"claimed": f"{direction} {threshold:g}", "verdict": found.verdict})
    return rows


def claim_rows(one: Columns, other: Columns, *, generated: str) -> list[dict]:
    """Tidy rows of one - other by column, in points: what, value, stderr, n, low, high, and the verdict on "above 0".

    The last row holds the column `generated` against the mean of the others: what is lost there and not elsewhere.
    """
    rows = []
    for name in one:
        found = paired_difference(one[name], other[name])
        rows.append(_claim(name, found, len(one[name])))
    scored = [name for name in one if name != generated]
    # (a - b) - (c - d) = (a + d) - (c + b): items of different columns are independent, so the variances add up
    ahead = paired_difference(one[generated], other[generated])
    rest = difference({name: one[name] for name in scored}, {name: other[name] for name in scored})
    half = (((ahead.high - ahead.low) / 2) ** 2 + ((rest.high - rest.low) / 2) ** 2) ** 0.5
    gap = ahead.value - rest.value
    rows.append(_claim(f"{generated} beyond the others", Interval(gap, gap - half, gap + half),
                       sum(map(len, one.values()))))
    return rows


def interval_row(found: Interval, n: int) -> dict:
    """The fields value, stderr (of a normal interval of this width), n, low and high of a tidy row."""
    return {"value": found.value, "stderr": (found.high - found.low) / (2 * Z95), "n": n, "low": found.low,
            "high": found.high}


def _claim(what: str, found: Interval, n: int) -> dict:
    return {"what": what} | interval_row(found, n) | {"verdict": verdict(found.low, found.high)}


# -- resampling, and the spread between seeds -------------------------------------------------------------------------


def _compared(student: Models, teacher: Models, statistic: Callable, **options) -> Interval:
    """100 * statistic(student average, teacher average) with its interval over items, and over seeds if there are any.
    """
    if isinstance(student, Mapping):
        return _paired(student, teacher, statistic, **options)
    if not student or len(student) != len(teacher):
        raise ValueError(f"a comparison over seeds needs as many seeds on both sides, found {len(student)} and "
                         f"{len(teacher)}")
    over_items = _paired(_averaged(student), _averaged(teacher), statistic, **options)
    value_S = [float(statistic(_mean(one), _mean(other))) for one, other in zip(student, teacher, strict=True)]
    half = math.hypot((over_items.high - over_items.low) / 2, 100 * _half_over_seeds(value_S))
    return Interval(over_items.value, over_items.value - half, over_items.value + half)


def _half_over_seeds(value_S: Sequence[float]) -> float:
    S = len(value_S)
    return float(student_t.ppf((1 + LEVEL) / 2, S - 1) * np.std(value_S, ddof=1) / math.sqrt(S)) if S > 1 else 0.0


def _averaged(columns_S: Sequence[Columns]) -> Columns:
    if len({tuple(sorted((name, len(items)) for name, items in columns.items())) for columns in columns_S}) != 1:
        raise ValueError("every seed needs the same columns with the same items: measure all with one limit")
    return {name: np.mean([columns[name] for columns in columns_S], axis=0) for name in columns_S[0]}


def _mean(columns: Columns) -> float:
    return float(np.mean([np.mean(correct) for correct in columns.values()]))


def _paired(
    student: Columns, teacher: Columns, statistic: Callable, *, seed: int, resamples: int, level: float
) -> Interval:
    """100 * statistic(student average, teacher average), its percentile interval over items drawn with replacement."""
    _check_paired(student, teacher, resamples=resamples, level=level)
    rng = np.random.default_rng(seed)
    means_2 = np.zeros(2)
    resampled_2R = np.zeros((2, resamples))
    for name in sorted(student):  # sorted: the interval must not depend on the order of the columns
        both_2N = np.stack([_vector(side[name], name=name, shares=True) for side in (student, teacher)])
        means_2 += both_2N.mean(axis=1) / len(student)
        resampled_2R += _resampled_means(both_2N, rng, resamples) / len(student)
    tail = (1 - level) / 2
    low, high = np.quantile(100 * statistic(*resampled_2R), (tail, 1 - tail))
    return Interval(100 * float(statistic(*means_2)), float(low), float(high))


def _resampled_means(both_2N: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Means [2, R] of items drawn with replacement, the same items for both rows.

    Only how often each outcome (student, teacher) is drawn matters, and those counts are multinomial: exact, and no
    [R, N] array of indices is held. Legend: O different outcomes.
    """
    outcome_2O, count_O = np.unique(both_2N, axis=1, return_counts=True)
    counts_RO = rng.multinomial(both_2N.shape[1], count_O / both_2N.shape[1], size=resamples)
    return outcome_2O @ counts_RO.T / both_2N.shape[1]


def _ratio(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    # A resample in which the teacher has nothing right (tiny N only) says nothing on retention: count it as none.
    return np.divide(student, teacher, out=np.zeros_like(np.asarray(student, float)), where=np.asarray(teacher) > 0)


def _check_paired(student: Columns, teacher: Columns, *, resamples: int, level: float) -> None:
    sizes = [{name: len(correct) for name, correct in side.items()} for side in (student, teacher)]
    if sizes[0] != sizes[1] or not sizes[0]:
        raise ValueError(
            f"paired comparison needs the same items on both sides, got student {sizes[0]} and teacher {sizes[1]}: "
            "evaluate both with the same columns, limit and seed"
        )
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"paired comparison needs resamples >= 1 and 0 < level < 1, got {resamples} and {level}")


def _vector(correct: Sequence[float], *, name: str, shares: bool = False) -> np.ndarray:
    """The answers [N]; with `shares`, any numbers from 0 to 1."""
    correct_N = np.asarray(correct, dtype=np.float64)
    if correct_N.ndim != 1 or not len(correct_N):
        raise ValueError(f"{name}: expected a non-empty list of 0s and 1s, got shape {correct_N.shape}")
    if shares and not ((correct_N >= 0) & (correct_N <= 1)).all():
        raise ValueError(f"{name}: expected numbers from 0 to 1, got {np.unique(correct_N)[:5].tolist()}")
    if not shares and not np.isin(correct_N, (0.0, 1.0)).all():
        raise ValueError(f"{name}: expected only 0s and 1s, got {np.unique(correct_N)[:5].tolist()}")
    return correct_N
