"""Training text that is transformed before it is tokenised (appendix A.2 and A.3): without white space, or perturbed.

    trimmed     all white space removed: no boundary can lean on it (Trim Data)
    perturbed   each document as it is or under one of the five perturbations, all six equally likely (Table 8)
"""

from collections.abc import Iterable, Iterator
from random import Random

from dbyte.text.perturb import KINDS, perturb


def trimmed(text: str, seed: int) -> str:
    """The text without white space, Unicode's included; the seed draws nothing here."""
    return "".join(text.split())


def perturbed(text: str, seed: int) -> str:
    """The text under a perturbation that is drawn by seed and text, or as it is."""
    kind = Random(f"perturbed {seed} {text}").choice((None, *KINDS))
    return text if kind is None else perturb(text, kind, seed)


TRANSFORMS = {"trimmed": trimmed, "perturbed": perturbed}


def transformed(texts: Iterable[str], transform: str, *, seed: int, max_bytes: int) -> Iterator[str]:
    """Transformed texts until they have `max_bytes` UTF-8 bytes or a little more; ValueError for an unknown name."""
    if transform not in TRANSFORMS:
        raise ValueError(f"unknown transform of text {transform!r}: choose one of {', '.join(TRANSFORMS)}")
    total = 0
    for text in texts:
        if total >= max_bytes:
            return
        text = TRANSFORMS[transform](text, seed)
        total += len(text.encode())
        yield text
