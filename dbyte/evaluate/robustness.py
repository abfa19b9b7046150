"""Robustness to character noise: Eq. 5 and Delta (the paper's appendix A.1).

As in BLT (arXiv 2412.09871, section 6.1), a perturbation is applied to the prompt, to the completion, and to both, as
three separate tasks whose accuracies are averaged (`noisy_lm.py`).

Eq. 5 divides by the clean accuracy above chance. The caption of the paper's Table 6 calls the score a harmonic mean,
which it is not; the equation is what is computed here.
"""

import math


def robustness_score(clean: float, perturbed: float, *, chance: float = 0.25) -> float:
    """Eq. 5 in percent: what is left of the accuracy above chance; all accuracies in [0, 1].

    100 if noise costs nothing, 0 at chance, negative below it; nan where the clean accuracy is not above chance.
    ValueError for a number outside [0, 1].
    """
    for name, value in (("clean", clean), ("perturbed", perturbed), ("chance", chance)):
        if not 0 <= value <= 1:
            raise ValueError(f"robustness_score takes accuracies in [0, 1], found {name} = {value}: divide percent by "
                             "100")
    return 100 * (perturbed - chance) / (clean - chance) if clean > chance else math.nan


def delta(clean: float, perturbed: float) -> float:
    """The accuracy that noise costs, in the unit of the two."""
    return clean - perturbed
