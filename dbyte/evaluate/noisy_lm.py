"""Any model of lm-evaluation-harness under character noise: each request is perturbed before the model answers it.

As in BLT (arXiv 2412.09871, section 6.1), a perturbation changes the prompt, the completion, or both. The prompt is all
that stands before the completion, template included; the white space that a completion begins with stays. Equal prompts
get equal noise, so all choices of an item have the same prompt. What is generated cannot be perturbed: such a
column has the place "prompt" alone. Where a column's accuracy is normalised by length (acc_norm), the lengths are those
of the unperturbed choices.
"""

from dataclasses import asdict, dataclass
from random import Random
from types import SimpleNamespace

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from dbyte.text.perturb import KINDS, perturb

PLACES = ("prompt", "completion", "both")
MIXED = "mixed"  # one of the five kinds, drawn for each text


@dataclass(frozen=True)
class Noise:
    """A perturbation (or MIXED), the place where it is applied, its seed, and the share of words that it hits.

    ValueError for an unknown kind or place.
    """

    kind: str
    place: str = "both"
    seed: int = 0
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in (*KINDS, MIXED):
            raise ValueError(f"unknown perturbation {self.kind!r}: choose one of {', '.join((*KINDS, MIXED))}")
        if self.place not in PLACES:
            raise ValueError(f"unknown place {self.place!r}: choose one of {', '.join(PLACES)}")

    def prompt(self, text: str) -> str:
        """The prompt as the model gets it."""
        return text if self.place == "completion" else self.of(text)

    def completion(self, text: str) -> str:
        """The completion as the model gets it, the white space before it untouched."""
        bare = text.lstrip()
        return text if self.place == "prompt" else text[: len(text) - len(bare)] + self.of(bare)

    def of(self, text: str) -> str:
        """The text with this noise, wherever it stands."""
        kind = self.kind if self.kind != MIXED else Random(f"{MIXED} {self.seed} {text}").choice(KINDS)
        return perturb(text, kind, self.seed, self.share)

    def describe(self) -> dict:
        """The noise as plain data, a part of addresses; those from before there was a share stay."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("share", 1.0)}


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
