"""Any model of lm-evaluation-harness under character noise: each request is perturbed before the model answers it.

As in BLT (arXiv 2412.09871, section 6.1), a perturbation changes the prompt, the completion, or both. The prompt is all
that stands before the completion, template included; the white space that a completion begins with stays. Equal prompts
get equal noise, so all choices of an item have the same prompt. What is generated cannot be perturbed: such a
column has the place "prompt" alone. Where a column's accuracy is normalised by length (acc_norm), the lengths are those
of the unperturbed choices.
"""

from dataclasses import dataclass
from types import SimpleNamespace

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from dbyte.text.perturb import KINDS, perturb

PLACES = ("prompt", "completion", "both")


@dataclass(frozen=True)
class Noise:
    """A perturbation, the place where it is applied, and its seed; ValueError for an unknown kind or place."""

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


class NoisyLM(LM):
    """Answers each request as `lm` answers the perturbed one."""

    def __init__(self, lm: LM, noise: Noise):
        super().__init__()
        self.lm = lm
        self.noise = noise

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return self.lm.loglikelihood([_asked(self.noise.prompt(prompt), self.noise.completion(completion))
                                      for prompt, completion in (request.args for request in requests)])

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return self.lm.loglikelihood_rolling([_asked(self.noise.completion(request.args[0])) for request in requests])

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return self.lm.generate_until([_asked(self.noise.prompt(prompt), options)
                                       for prompt, options in (request.args for request in requests)])


def _asked(*args) -> SimpleNamespace:
    """What an adapter reads of a request: its arguments."""
    return SimpleNamespace(args=args)
