"""Errors of accuracies, and verdicts on claims: seeded, over per-item vectors of right and wrong.

Teacher and student answer the same items, so differences and ratios are resampled in pairs: what makes an item hard for
both cancels. Averages over benchmark columns weigh each column equally (the paper's convention, Table 1) and resample
the items within each. One model's accuracy is a share in [0, 1], as the harness reports it; a comparison of two is in
points or percent, as the paper prints it. An item asked in several ways (noise in several places) has their mean.

Students of several seeds answer the same items. Then two sources of error add up: the spread between seeds, of which
there are few (hence Student's t), and the items, each with its answers averaged over seeds:

    half width^2 = (t(S - 1) s / sqrt(S))^2 + (half width over items)^2

With one seed there is no spread to see, and the interval is over items alone: a table says how many seeds it had.

Items that ask for one fact, or share a tool or a document, are right or wrong together: such a cluster is drawn as one
(`Marks`). Where no cluster differs from another, resampling sees no spread, which proves none. There an interval ends
where Wilson's does if 0 of as many clusters are seen: z^2 / (G + z^2) away.

Legend: N items, G clusters, R resamples, S seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm
from scipy.stats import t as student_t

from dbyte_tasks.column import Marks

Columns = Mapping[str, Sequence[float]]  # column name -> per-item correctness, 0 or 1
Models = Columns | Sequence[Columns]  # one model, or one of each seed
Ratio = tuple[Sequence[float], Sequence[float]]  # numerators and denominators, one of each per piece of text
AVERAGE = "average"  # of the columns, as a task in tidy rows
LEVEL = 0.95  # of all intervals
Z95 = 1.96  # standard errors to either end of a normal 95 % interval
RESAMPLES = 10_000  # of the bootstrap
EQUAL = 2.0  # points within which two sides count as equal


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
    ValueError if `correct` is empty or holds a number outside [0, 1].
    """
    correct_N = _shares("correct", correct)
    p = float(correct_N.mean())
    n = len(correct_N)
    return Estimate(p, float(np.sqrt(p * (1 - p) / max(n - 1, 1))), n)


def mean_of_items(answers: Sequence[float]) -> Estimate:
    """The mean of answers [N] between 0 and 1, with its standard error over clusters of items, which is never 0."""
    found = ratio_of_sums(tuple(_by_cluster(np.asarray(answers, dtype=float)[None], answers)))
    seen = found.stderr if found.stderr > 1e-9 else least_half(found.n) / Z95  # of one cluster it is nan
    return Estimate(found.value, seen, len(answers))


def least_half(clusters: int) -> float:
    """Return how far the interval of a share reaches at least: Wilson's limit where none of so many clusters is 1."""
    return Z95**2 / (clusters + Z95**2)


def wilson(correct: Sequence[float]) -> Interval:
    """The share of ones in `correct` [N] with Wilson's score interval, which is not empty at 0 or 1."""
    p = proportion(correct).value
    found = binomtest(int(np.sum(correct)), len(correct)).proportion_ci(2 * float(norm.cdf(Z95)) - 1, method="wilson")
    return Interval(p, float(found.low), float(found.high))


def ratio_of_sums(*ratios: Ratio) -> Estimate:
    """The sum of numerators [P] over the sum of denominators [P]; of two such ratios, the first minus the second.

    The error is over P independent pieces of text: what is counted in one comes together, so its parts are no items of
    their own, and errors of two ratios over the same pieces may cancel. First order (linearised); nan for one piece,
    which says nothing on how pieces differ. ValueError for denominators whose sum is 0.
    """
    value = 0.0
    pull_P = 0.0  # the influence of each piece on the value
    for sign, (over_P, under_P) in zip((1, -1), ratios, strict=False):
        under = np.sum(under_P)
        if not under:
            raise ValueError("a ratio of sums needs something under the bar, found the sum 0: leave it out")
        ratio = np.sum(over_P) / under
        value += sign * ratio
        pull_P += sign * (np.asarray(over_P) - ratio * np.asarray(under_P)) / under
    n = len(pull_P)
    return Estimate(float(value), float(np.sqrt(n / (n - 1) * (pull_P**2).sum())) if n > 1 else math.nan, n)


# -- two models on the same items -------------------------------------------------------------------------------------


def difference(student: Models, teacher: Models, *, seed: int = 0) -> Interval:
    """Student minus teacher average over columns, in points, with its paired bootstrap interval.

    With its sign turned it is the paper's average drop (Table 1). Two lists of models, paired by seed, give the
    interval over seeds and items.
    Raises:
        ValueError: if the two do not hold the same columns with the same numbers of items, or not as many seeds.
    """
    found = compared_over_seeds(student, teacher, np.subtract, seed=seed)
    return Interval(found.value, max(found.low, -100.0), min(found.high, 100.0))


def retention(student: Models, teacher: Columns, *, seed: int = 0) -> Interval:
    """Student over teacher average over columns, in percent (100 keeps everything), with its paired bootstrap interval.

    A list of students, one per seed, against their one teacher gives the interval over seeds and items.
    Raises:
        ValueError: if the two do not hold the same columns with the same numbers of items, or if the teacher got
            nothing right, which leaves nothing to retain.
    """
    if not any(np.any(np.asarray(correct)) for correct in teacher.values()):
        raise ValueError("retention: the teacher has no correct item in any column, so a ratio has no meaning")
    if not isinstance(student, Mapping):
        teacher = [teacher] * len(student)
    return compared_over_seeds(student, teacher, ratio_or_0, seed=seed)


def verdict(low: float, high: float, *, threshold: float = 0.0, direction: str = "above") -> str:
    """What an interval says on the claim "the value is above (or below) the threshold".

    "shown" if all of [low, high] is on the claim's side, "opposite" if all of it is on the other; else "equal" if all
    of it is within EQUAL points of the threshold, and "not shown" if it is not.
    ValueError if low > high, an end is not a number, or the direction is neither "above" nor "below".
    """
    if direction not in ("above", "below"):
        raise ValueError(f'direction must be "above" or "below", got {direction!r}')
    if not low <= high:
        raise ValueError(f"verdict needs low <= high, found low={low}, high={high}: pass the ends of an interval")
    above = low > threshold
    below = high < threshold
    claimed, denied = (above, below) if direction == "above" else (below, above)
    equal = threshold - EQUAL < low and high < threshold + EQUAL
    return "shown" if claimed else "opposite" if denied else "equal" if equal else "not shown"


def interval_row(found: Interval, n: int) -> dict:
    """The fields value, stderr (of a normal interval of this width), n, low and high of a tidy row."""
    return {"value": found.value, "stderr": (found.high - found.low) / (2 * Z95), "n": n, "low": found.low,
            "high": found.high}


def difference_rows(
    what: str, one: Columns, other: Columns, *, direction: str = "above", threshold: float = 0.0
) -> list[dict]:
    """Tidy rows of one - other in points: one row per column and one for the average, with the verdict on the claim."""
    rows = []
    for task in (*one, AVERAGE):
        ours, theirs = (of_task(side, task) for side in (one, other))
        found = difference(ours, theirs)
        rows.append({"what": what, "task": task} | interval_row(found, items_in(ours))
                    | {"clusters": clusters_in(ours), "claimed": f"{direction} {threshold:g}",
                       "verdict": verdict(found.low, found.high, threshold=threshold, direction=direction)})
    return rows


def of_task(columns: Columns, task: str) -> Columns:
    """One column, or all of them for AVERAGE."""
    return columns if task == AVERAGE else {task: columns[task]}


def items_in(columns: Columns) -> int:
    """How many items all columns have together."""
    return sum(map(len, columns.values()))


def clusters_in(columns: Columns) -> int:
    """How many clusters all columns have together; an item without one counts as its own."""
    return sum(len(set(getattr(answers, "clusters", ())) or answers) for answers in columns.values())


# -- resampling, and the spread between seeds -------------------------------------------------------------------------


def compared_over_seeds(student: Models, teacher: Models, statistic: Callable, *, seed: int) -> Interval:
    """100 * statistic(student average, teacher average) with its interval over items, and over seeds if several."""
    if isinstance(student, Mapping):
        return _paired(student, teacher, statistic, seed=seed)
    if not student or len(student) != len(teacher):
        raise ValueError(f"a comparison over seeds needs as many seeds on both sides, found {len(student)} and "
                         f"{len(teacher)}")
    over_items = _paired(averaged(student), averaged(teacher), statistic, seed=seed)
    value_S = [float(statistic(*map(mean_of_columns, pair))) for pair in zip(student, teacher, strict=True)]
    half = math.hypot((over_items.high - over_items.low) / 2, 100 * half_over_seeds(value_S))
    return Interval(over_items.value, over_items.value - half, over_items.value + half)


def half_over_seeds(value_S: Sequence[float]) -> float:
    """Half the interval of a mean over seeds by Student's t; one seed has no spread to see, and 0."""
    S = len(value_S)
    return float(student_t.ppf((1 + LEVEL) / 2, S - 1) * np.std(value_S, ddof=1) / math.sqrt(S)) if S > 1 else 0.0


def averaged(columns_S: Sequence[Columns]) -> Columns:
    """Each answer averaged over models that were asked the same items, with their clusters; ValueError if not."""
    if any(_sizes(columns) != _sizes(columns_S[0]) for columns in columns_S):
        raise ValueError("every seed needs the same columns with the same items: measure all with one limit")
    return {name: Marks.in_clusters(np.mean([columns[name] for columns in columns_S], axis=0),
                                    getattr(first, "clusters", ())) for name, first in columns_S[0].items()}


def _sizes(columns: Columns) -> dict[str, int]:
    return {name: len(correct) for name, correct in columns.items()}


def mean_of_columns(columns: Columns) -> float:
    """The average over columns, each of which weighs the same."""
    return float(np.mean([np.mean(correct) for correct in columns.values()]))


def _paired(student: Columns, teacher: Columns, statistic: Callable, *, seed: int) -> Interval:
    """100 * statistic(student average, teacher average), its percentile interval over clusters drawn again."""
    if not student or _sizes(student) != _sizes(teacher):
        raise ValueError(f"paired comparison needs the same items on both sides, got student {_sizes(student)} and "
                         f"teacher {_sizes(teacher)}: evaluate both with the same columns, limit and seed")
    rng = np.random.default_rng(seed)
    means_2 = np.zeros(2)
    resampled_2R = np.zeros((2, RESAMPLES))
    unseen = 0.0  # what columns whose clusters all differ alike may hide, of the student's average
    for name in sorted(student):  # sorted: the interval must not depend on the order of the columns
        both_2N = np.stack([_shares(name, side[name]) for side in (student, teacher)])
        summed_3G = _by_cluster(both_2N, student[name])
        means_2 += both_2N.mean(axis=1) / len(student)
        resampled_2R += _resampled_means(summed_3G, rng) / len(student)
        ours_G, theirs_G, size_G = summed_3G
        if np.ptp((ours_G - theirs_G) / size_G) < 1e-9:
            unseen = math.hypot(unseen, least_half(len(size_G)) / len(student))
    value = float(statistic(*means_2))
    below, above = (math.hypot(np.quantile(statistic(*resampled_2R), share) - value,
                               statistic(means_2[0] + moved, means_2[1]) - value)
                    for share, moved in (((1 - LEVEL) / 2, -unseen), ((1 + LEVEL) / 2, unseen)))
    return Interval(100 * value, 100 * (value - below), 100 * (value + above))


def _by_cluster(rows_KN: np.ndarray, marks: Sequence[float]) -> np.ndarray:
    """The rows summed over each cluster of `marks`, or item where it has none, and below them its items: [K + 1, G]."""
    rows_KN = np.vstack([rows_KN, np.ones(rows_KN.shape[1])])
    if not (clusters := getattr(marks, "clusters", ())):
        return rows_KN
    number = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    of_N = [number[cluster] for cluster in clusters]
    return np.stack([np.bincount(of_N, weights=row_N) for row_N in rows_KN])


def _resampled_means(summed_3G: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means [2, R] of items whose clusters are drawn with replacement, the same clusters for both rows.

    Only how often each outcome (student, teacher, items) is drawn matters, and those counts are multinomial: exact, and
    no [R, G] array of indices is held. Legend: O different outcomes.
    """
    outcome_3O, count_O = np.unique(summed_3G, axis=1, return_counts=True)
    counts_RO = rng.multinomial(summed_3G.shape[1], count_O / summed_3G.shape[1], size=RESAMPLES)
    drawn_3R = outcome_3O @ counts_RO.T
    return drawn_3R[:2] / drawn_3R[2]


def ratio_or_0(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    # A resample in which the teacher has nothing right (tiny N only) says nothing on retention: count it as none.
    return np.divide(student, teacher, out=np.zeros_like(np.asarray(student, float)), where=np.asarray(teacher) > 0)


def _shares(name: str, answers: Sequence[float]) -> np.ndarray:
    """The answers [N], numbers from 0 to 1."""
    answers_N = np.asarray(answers, dtype=np.float64)
    if not len(answers_N) or not ((answers_N >= 0) & (answers_N <= 1)).all():
        raise ValueError(f"{name}: expected at least one number from 0 to 1, got {np.unique(answers_N)[:5].tolist()}")
    return answers_N
