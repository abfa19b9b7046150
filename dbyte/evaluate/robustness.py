"""Robustness to character noise: Eq. 5, Delta, and any model behind perturbed requests (the paper's appendix A.1).

As in BLT (arXiv 2412.09871, section 6.1), a perturbation is applied to the prompt, to the completion, and to both, as
three separate tasks whose accuracies are averaged. The prompt is all that stands before the completion, template
included; the white space that a completion begins with stays. Equal prompts are perturbed alike, so all choices of an
item are compared behind one prompt. What is generated cannot be perturbed: such a column has the place "prompt" alone.
Where a column's accuracy is normalised by length (acc_norm), the lengths are those of the unperturbed choices.

Eq. 5 divides by the clean accuracy above chance. The caption of the paper's Table 6 calls the score a harmonic mean,
which it is not; the equation is what is computed here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dbyte.evaluate.stats import Estimate
from dbyte.text.perturb import KINDS, perturb

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

PLACES = ("prompt", "completion", "both")


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


def over_places(correct: Mapping[str, Sequence[float]]) -> np.ndarray:
    """The mean [N] over places of the noise (place -> 0 or 1 for each of the same N items), between 0 and 1.

    ValueError for no items, or places with different numbers of them.
    """
    sizes = {place: len(items) for place, items in correct.items()}
    if len(set(sizes.values())) != 1 or not min(sizes.values()):
        raise ValueError(f"the places need the same items, at least one; found {sizes}")
    return np.mean([np.asarray(items, dtype=float) for items in correct.values()], axis=0)


def average_over_places(correct: Mapping[str, Sequence[float]]) -> Estimate:
    """Accuracy averaged over places of the noise, with its error over items: an item's places are not independent.

    ValueError as of `over_places`.
    """
    return mean_of_items(over_places(correct))


def mean_of_items(answers: Sequence[float]) -> Estimate:
    """The mean of answers [N] between 0 and 1, with its standard error over items."""
    answers_N, n = np.asarray(answers, dtype=float), len(answers)
    return Estimate(float(answers_N.mean()), float(answers_N.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0, n)


@dataclass(frozen=True)
class Noise:
    """A perturbation, where it strikes, and its seed; ValueError for a kind or place that does not exist."""

    kind: str
    place: str = "both"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown perturbation {self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.place not in PLACES:
            raise ValueError(f"unknown place {self.place!r}: choose one of {', '.join(PLACES)}")

    def prompt(self, text: str) -> str:
        """The prompt as the model gets it."""
        return text if self.place == "completion" else perturb(text, self.kind, self.seed)

    def completion(self, text: str) -> str:
        """The completion as the model gets it, the white space before it untouched."""
        bare = text.lstrip()
        return text if self.place == "prompt" else text[: len(text) - len(bare)] + perturb(bare, self.kind, self.seed)


def noisy(lm: "LM", noise: Noise) -> "LM":
    """An lm_eval LM that answers each request as `lm` answers the perturbed one."""
    from lm_eval.api.model import LM

    class Noisy(LM):
        def loglikelihood(self, requests: "list[Instance]") -> list[tuple[float, bool]]:
            return lm.loglikelihood([_Request(noise.prompt(r.args[0]), noise.completion(r.args[1])) for r in requests])

        def loglikelihood_rolling(self, requests: "list[Instance]") -> list[float]:
            return lm.loglikelihood_rolling([_Request(noise.completion(r.args[0])) for r in requests])

        def generate_until(self, requests: "list[Instance]") -> list[str]:
            return lm.generate_until([_Request(noise.prompt(r.args[0]), r.args[1]) for r in requests])

    return Noisy()


class _Request:
    """What an adapter reads of a request: its arguments."""

    def __init__(self, *args):
        self.args = args
