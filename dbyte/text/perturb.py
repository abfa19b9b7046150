"""Text with character noise: the five perturbations of the paper's appendix A.1, which takes them from BLT.

BLT (arXiv 2412.09871, section 6.1) gives one line to each; where it can be read in two ways, this is our reading:

    antspeak     upper case, and one space between every two characters (a space becomes three)
    drop         each character is left out with probability 0.1
    random_case  each character is upper case with probability 0.5, else lower case
    repeat       each character is written 2, 3 or 4 times (equally likely) with probability 0.2
    uppercase    upper case

A character is Unicode's extended grapheme cluster (UAX 29): a code point with the marks that belong to it, so no accent
loses its letter. A line end of two code points stays two characters. Case is Unicode's: a letter without case stays,
"ß" becomes "SS". A text that is not empty stays so: where every character is drawn to be dropped, the first is kept.

Random numbers depend on (perturbation, seed, text) alone: equal texts get equal noise, different texts do not.

Milder noise than BLT's hits a share of the words alone; white space between words stays. At 0.2 and 0.5 Drop leaves out
2 and 5 of a hundred characters.
"""

from random import Random

import regex

KINDS = ("antspeak", "drop", "random_case", "repeat", "uppercase")
DROP_RATE, UPPER_RATE, REPEAT_RATE = 0.1, 0.5, 0.2
REPEATS = (2, 3, 4)
CHARACTER = regex.compile(r"\r|\X")
WORD = regex.compile(r"\S+")


def perturb(text: str, kind: str, seed: int = 0, share: float = 1.0) -> str:
    """Return `text` with one of the five perturbations; equal arguments give an equal result.

    Args:
        kind: "antspeak", "drop", "random_case", "repeat" or "uppercase".
        share: of the words that are hit, each drawn by itself, in [0, 1]; 1: the text as a whole, as BLT does.
    Raises:
        ValueError: for another kind or share, or a text that is no str.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown perturbation {kind!r}: choose one of {', '.join(KINDS)}")
    if not isinstance(text, str):
        raise ValueError(f"perturb takes a str, found {type(text).__name__}: decode bytes first")
    if not 0 <= share <= 1:
        raise ValueError(f"share is of the words of a text, 0 to 1, found {share}")
    if share < 1:
        rng = Random(f"share {kind} {seed} {text}".encode(errors="surrogatepass"))
        return WORD.sub(lambda word: perturb(word[0], kind, rng.getrandbits(32)) if rng.random() < share else word[0],
                        text)
    if kind == "uppercase":
        return text.upper()
    units = CHARACTER.findall(text)
    if kind == "antspeak":
        return " ".join(units).upper()
    rng = Random(f"{kind} {seed} {text}".encode(errors="surrogatepass"))
    if kind == "drop":
        return "".join(unit for unit in units if rng.random() >= DROP_RATE) or "".join(units[:1])
    if kind == "random_case":
        return "".join(unit.upper() if rng.random() < UPPER_RATE else unit.lower() for unit in units)
    return "".join(unit * rng.choice(REPEATS) if rng.random() < REPEAT_RATE else unit for unit in units)
