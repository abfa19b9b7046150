"""Eq. 5 (appendix A.1): what noise leaves of the accuracy above chance.

It divides by the clean accuracy above chance. The caption of the paper's Table 6 calls the score a harmonic mean, which
it is not; the equation is what is computed here.
"""

import math
from collections.abc import Mapping

import numpy as np

from dbyte.evaluate.stats import Columns, Interval, Models, compared_over_seeds, mean_of_columns, ratio_or_0


def kept_above_chance(noisy: Models, clean: Columns, *, chance: float) -> Interval:
    """Eq. 5 (appendix A.1) over columns whose chance is `chance` on average, in percent, with its bootstrap interval.

    An item is drawn with its answers to clean and noisy text. nan where the clean accuracy is not above chance. A
    resample whose clean accuracy is not above chance counts as 0. A list of students of several seeds in place of
    `noisy`, and their teacher in place of `clean`, give what is kept of the teacher, over seeds and items.
    """
    def kept(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        # means of a few items at chance may miss it by a rounding error, by which nothing may be divided
        return ratio_or_0(one - chance, np.where(np.isclose(other, chance), 0.0, other - chance))

    accuracy = mean_of_columns(clean)
    if accuracy <= chance or np.isclose(accuracy, chance):
        return Interval(math.nan, math.nan, math.nan)
    return compared_over_seeds(noisy, clean if isinstance(noisy, Mapping) else [clean] * len(noisy), kept, seed=0)


def robustness_score(clean: float, perturbed: float, *, chance: float = 0.25) -> float:
    """Eq. 5 in percent from two accuracies: what is left of that above chance; all in [0, 1].

    100 if noise costs nothing, 0 at chance, negative below it; nan where the clean accuracy is not above chance.
    ValueError for a number outside [0, 1].
    """
    for name, value in (("clean", clean), ("perturbed", perturbed), ("chance", chance)):
        if not 0 <= value <= 1:
            raise ValueError(f"robustness_score takes accuracies in [0, 1], found {name} = {value}: divide percent by "
                             "100")
    return 100 * (perturbed - chance) / (clean - chance) if clean > chance else math.nan
