"""Where the router is right and wrong: by kind of position, at spaces, how long its chunks are (appendix A.2).

A position is the place after a byte. Its kind follows from this byte and the next one; the first that fits:

    before a space     the next byte is a space, this one no white space
    other white space  one of the two is white space: after a space, at line breaks, in indentation
    non-ASCII          one of the two belongs to a character beyond ASCII
    digits             one of the two is a digit
    punctuation        one of the two is no letter
    inside a word      both are letters

Each byte that the router decides (`losses.routed`) has one kind. The truth is the teacher's tokens of the text that is
read: of the perturbed text where it is perturbed. Errors are over pieces (documents, split where a row ends), since the
bytes of one piece are not independent: a router that misreads a word misreads it again.

The paper says of its router that it "consistently predicts boundaries at the character immediately preceding a
whitespace" (Space Bias) and shows a picture. `space_rows` asks the same in numbers that can come out otherwise.

Shape letters: B rows, L bytes, P pieces, K kinds, N lengths.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.evaluate.boundaries import Agreement, decisions, outcomes
from dbyte.evaluate.stats import Z95, Estimate, ratio_difference, ratio_of_sums, verdict
from dbyte.model.router import THRESHOLD
from dbyte.model.student import ByteStudent
from dbyte.text.packing import Rows
from dbyte.text.spans import BOS

KINDS = ("before a space", "other white space", "non-ASCII", "digits", "punctuation", "inside a word")
BEFORE_SPACE, OTHER_WHITE, NON_ASCII, DIGITS, PUNCTUATION, IN_WORD = range(len(KINDS))
SPACE, WHITE = 0x20, b" \t\n\r\v\f"  # line breaks are no spaces here: tokenizers join them to what stands before
WHO = ("router", "teacher")
CONSISTENT = 95.0  # percent of the places before a space at which "consistently" begins: our reading, none is given
SPACE_MEASURES = ("router cuts", "teacher cuts", "router - teacher", "recall beyond elsewhere", "false cuts",
                  "false cuts beyond chance")  # of `space_rows`
CLAIMS = {"router cuts": CONSISTENT, "router - teacher": 0.0, "recall beyond elsewhere": 0.0,
          "false cuts beyond chance": 0.0}  # what `space_rows` judges: the value lies above this
FEWEST = 20  # positions counted: with fewer neither error nor interval is given, and nothing is shown


def _byte_classes() -> Tensor:
    """The kind of a position by one of its two bytes, where the other does not decide it: int64 [256]."""
    classes = torch.full((256,), PUNCTUATION)
    for byte in range(256):
        if byte in WHITE:
            classes[byte] = OTHER_WHITE
        elif byte >= 128:
            classes[byte] = NON_ASCII
        elif chr(byte).isdigit():
            classes[byte] = DIGITS
        elif chr(byte).isalpha():
            classes[byte] = IN_WORD
    return classes


BYTE_CLASSES = _byte_classes()


def kinds(byte_ids_BL: Tensor) -> Tensor:
    """The kind of each position, int64 [B, L], an index into KINDS; a row's last position has no next byte."""
    this_BL = BYTE_CLASSES.to(byte_ids_BL.device)[byte_ids_BL]
    next_BL = F.pad(this_BL[:, 1:], (0, 1), value=IN_WORD)
    next_is_space_BL = F.pad(byte_ids_BL[:, 1:] == SPACE, (0, 1))
    # KINDS are in the order in which they decide, so the first that fits is the smaller of the two
    return torch.minimum(this_BL, next_BL).masked_fill(next_is_space_BL & (this_BL != OTHER_WHITE), BEFORE_SPACE)


@dataclass(frozen=True)
class Tally:
    """What the router and the teacher do in each piece of a text.

    counts_PK4: int64, Agreement's hits, false cuts, missed cuts and all positions, by kind. lengths_PN: who -> int64,
    chunks of each length in bytes; BOS and EOS, which are always chunks of their own, are left out.
    """

    counts_PK4: np.ndarray
    lengths_PN: dict[str, np.ndarray]

    def of(self, kind: int | None = None) -> Agreement:
        """The agreement at one kind of position, or at all (None)."""
        counts_PK4 = self.counts_PK4 if kind is None else self.counts_PK4[:, [kind]]
        return Agreement(*map(int, counts_PK4.sum((0, 1))))


def tally(student: ByteStudent, rows: Rows) -> Tally:
    """Count over all rows, piece by piece."""
    counts = []
    lengths = {who: [] for who in WHO}
    for batch, prob_BL, routed_BL in decisions(student, rows):
        batch = batch.to("cpu")
        routed_BL = routed_BL.cpu()
        cut_BL = (prob_BL >= THRESHOLD).cpu()
        # every piece begins with BOS, and BOS occurs nowhere else
        piece_BL = (batch.byte_ids_BL == BOS).flatten().cumsum(0).view_as(batch.byte_ids_BL) - 1
        pieces = int(piece_BL.max()) + 1
        place_BL = piece_BL * len(KINDS) + kinds(batch.byte_ids_BL)
        counts.append(torch.stack([_count(place_BL[mask_BL & routed_BL], pieces, len(KINDS))
                                   for mask_BL in outcomes(cut_BL, batch.boundary_BL)], dim=-1))
        for who, ends_BL in zip(WHO, (cut_BL & batch.mask_BL, batch.boundary_BL), strict=True):
            owner, length = _chunks(ends_BL, batch.byte_ids_BL, piece_BL)
            lengths[who].append(_count(owner * (rows.row_bytes + 1) + length, pieces, rows.row_bytes + 1))
    return Tally(torch.cat(counts).numpy(), {who: _trimmed(torch.cat(found)) for who, found in lengths.items()})


def _count(places: Tensor, pieces: int, width: int) -> Tensor:
    """How often each of piece * width + column occurs: int64 [P, width]."""
    return torch.bincount(places, minlength=pieces * width).view(pieces, width)


def _chunks(ends_BL: Tensor, byte_ids_BL: Tensor, piece_BL: Tensor) -> tuple[Tensor, Tensor]:
    """The piece and the length in bytes of every chunk of text, from where chunks end."""
    ends = ends_BL.flatten().nonzero()[:, 0]
    lengths = torch.diff(ends, prepend=torch.tensor([-1]))
    # BOS ends whatever is before it (padding too), so a text's first chunk starts after it
    text = byte_ids_BL.flatten()[ends] < BOS
    return piece_BL.flatten()[ends][text], lengths[text]


def _trimmed(lengths_PN: Tensor) -> np.ndarray:
    """Without the lengths that no chunk has at the end."""
    return lengths_PN[:, : int(lengths_PN.sum(0).nonzero().max()) + 1].numpy()


def kind_rows(found: Tally, **where: str) -> list[dict]:
    """Tidy rows a kind, and one for all: F1 in percent as value, precision, recall and their counts.

    A kind at which neither router nor teacher sets a boundary has no F1 and no row, one of fewer than FEWEST positions
    no error. An error of 0 (nothing wrong in any piece) says little where n is small.
    """
    rows = []
    for index, kind in enumerate((*KINDS, "all")):
        picked_PK4 = found.counts_PK4[:, [index]] if kind != "all" else found.counts_PK4
        agreement = found.of(None if kind == "all" else index)
        hits_P, false_P, missed_P, _ = picked_PK4.sum(1).T
        if agreement.n == 0 or agreement.hits + agreement.false_cuts + agreement.missed_cuts == 0:
            continue
        rows.append(where | {"kind": kind, "n": agreement.n}
                    | _rate("value", "stderr", 2 * hits_P, 2 * hits_P + false_P + missed_P, n=agreement.n)
                    | _rate("precision", "precision_stderr", hits_P, hits_P + false_P, n=agreement.n)
                    | _rate("recall", "recall_stderr", hits_P, hits_P + missed_P, n=agreement.n)
                    | {"hits": agreement.hits, "false_cuts": agreement.false_cuts,
                       "missed_cuts": agreement.missed_cuts})
    return rows


def _rate(name: str, error: str, over_P: np.ndarray, under_P: np.ndarray, *, n: int) -> dict[str, float]:
    """A share in percent and its error by their names, missing where nothing stands under the bar."""
    rate = ratio_of_sums(over_P, under_P) if under_P.sum() else Estimate(math.nan, math.nan, 0)
    return {name: 100 * rate.value, error: 100 * rate.stderr if n >= FEWEST else math.nan}


def space_rows(found: Tally, **where: str) -> list[dict]:
    """Space bias as tidy rows in percent or points: what, value, stderr, n, low, high, threshold, verdict.

    router cuts, teacher cuts   P(boundary | before a space), of the router and of the teacher
    router - teacher            their difference at the same positions: a router that prefers spaces is above 0
    recall beyond elsewhere     the router's recall before a space minus that at all other kinds: one that leans on
                                spaces finds the teacher's boundaries there and misses others, and is above 0
    false cuts                  the share of the router's false boundaries that is before a space
    false cuts beyond chance    that, minus the share there of all positions without a boundary of the teacher, which
                                is what random false boundaries would have: errors drawn to spaces are above 0

    CLAIMS says which are judged; the first row's claim is the paper's "consistently". What has no position to be
    counted at is left out: shares of false boundaries where there are none, and chance where the teacher has a boundary
    before every space.
    """
    here_P4 = found.counts_PK4[:, BEFORE_SPACE]
    everywhere_P4 = found.counts_PK4.sum(1)
    hits_P, false_P, missed_P, all_P = here_P4.T
    every_false_P = everywhere_P4[:, 1]
    rows = []
    if all_P.sum():
        rows += [("router cuts", ratio_of_sums(hits_P + false_P, all_P), all_P),
                 ("teacher cuts", ratio_of_sums(hits_P + missed_P, all_P), all_P),
                 ("router - teacher", ratio_of_sums(false_P - missed_P, all_P), all_P)]
    here, elsewhere = ((part_P4[:, 0], part_P4[:, 0] + part_P4[:, 2]) for part_P4 in (here_P4, everywhere_P4 - here_P4))
    if here[1].sum() and elsewhere[1].sum():
        rows.append(("recall beyond elsewhere", ratio_difference(here, elsewhere), here[1] + elsewhere[1]))
    if every_false_P.sum():
        rows.append(("false cuts", ratio_of_sums(false_P, every_false_P), every_false_P))
    if every_false_P.sum() and _uncut(here_P4).sum():
        beyond = ratio_difference((false_P, every_false_P), (_uncut(here_P4), _uncut(everywhere_P4)))
        rows.append(("false cuts beyond chance", beyond, every_false_P))
    return [where | _judged(what, estimate, int(n_P.sum()), unit=100, threshold=CLAIMS.get(what))
            for what, estimate, n_P in rows]


def _uncut(counts_P4: np.ndarray) -> np.ndarray:
    """How many positions of each piece have no boundary of the teacher: only there a boundary can be false."""
    hits_P, _, missed_P, all_P = counts_P4.T
    return all_P - hits_P - missed_P


def _judged(what: str, estimate: Estimate, n: int, *, unit: float, threshold: float | None) -> dict:
    """A tidy row in `unit`s, with the verdict on "above the threshold" where there is one."""
    value = unit * estimate.value
    stderr = unit * estimate.stderr
    # a normal interval needs events: one false boundary alone would have an error of nearly 0, one piece has none
    half = math.inf if math.isnan(stderr) or n < FEWEST else Z95 * stderr
    said = "" if threshold is None else verdict(value - half, value + half, threshold=threshold)
    return {"what": what, "value": value, "stderr": stderr, "n": n, "low": value - half, "high": value + half,
            "threshold": math.nan if threshold is None else threshold, "verdict": said}


def mean_rows(found: Tally, **where: str) -> list[dict]:
    """The mean length of a chunk in bytes as tidy rows: of router and teacher (n chunks), and their difference.

    The difference is judged: a router that finds too few segments has longer chunks than its teacher, above 0.
    """
    sums = {who: (lengths_PN @ np.arange(lengths_PN.shape[1]), lengths_PN.sum(1))
            for who, lengths_PN in found.lengths_PN.items()}
    rows = [where | _judged(who, ratio_of_sums(bytes_P, chunks_P), int(chunks_P.sum()), unit=1, threshold=None)
            for who, (bytes_P, chunks_P) in sums.items()]
    gap = ratio_difference(sums["router"], sums["teacher"])
    n = int(sums["teacher"][1].sum())
    return [*rows, where | _judged("router - teacher", gap, n, unit=1, threshold=0.0)]


def length_rows(found: Tally, **where: str) -> list[dict]:
    """Tidy rows a chunk length that occurs, of router and teacher: its share of the chunks in percent, n chunks."""
    rows = []
    for who, lengths_PN in found.lengths_PN.items():
        chunks_P = lengths_PN.sum(1)
        for length in np.flatnonzero(lengths_PN.sum(0)):
            share = ratio_of_sums(lengths_PN[:, length], chunks_P)
            rows.append(where | {"who": who, "length": int(length), "value": 100 * share.value,
                                 "stderr": 100 * share.stderr, "n": int(chunks_P.sum())})
    return rows
