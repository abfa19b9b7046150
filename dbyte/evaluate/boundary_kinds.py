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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dbyte.evaluate.boundaries import Agreement, decisions
from dbyte.evaluate.stats import Z95, Estimate, Ratio, ratio_of_sums, verdict
from dbyte.model.router import THRESHOLD
from dbyte.model.student import ByteStudent
from dbyte.text.packing import Rows
from dbyte.text.spans import BOS

KINDS = ("before a space", "other white space", "non-ASCII", "digits", "punctuation", "inside a word")
BEFORE_SPACE, OTHER_WHITE, NON_ASCII, DIGITS, PUNCTUATION, IN_WORD = range(len(KINDS))
SPACE, WHITE = 0x20, b" \t\n\r\v\f"  # line breaks are no spaces here: tokenizers join them to what stands before
WHO = ("router", "teacher")
CONSISTENT = 95.0  # percent of the places before a space at which "consistently" begins: our reading, none is given
# Of `space_rows`, where a cut is a boundary: the claim is that the value lies above this; nan: there is none.
SPACE_MEASURES = {"router cuts": CONSISTENT, "teacher cuts": math.nan, "router - teacher": 0.0,
                  "recall beyond elsewhere": 0.0, "false cuts": math.nan,
                  "false cuts beyond chance": 0.0}
PASSAGE = 120  # characters of a text that is shown byte by byte
FEWEST = 20  # positions counted: with fewer neither error nor interval is given, and nothing is shown
BYTE_CLASSES = torch.tensor([
    OTHER_WHITE if byte in WHITE else NON_ASCII if byte >= 128 else DIGITS if chr(byte).isdigit() else
    IN_WORD if chr(byte).isalpha() else PUNCTUATION for byte in range(256)])  # where the other byte does not decide


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

    counts_PK4: int64, Agreement's hits, false and missed ones and all positions, by kind. lengths_PN: who -> int64,
    chunks of each length in bytes; BOS and EOS, which are always chunks of their own, are left out.
    """

    counts_PK4: np.ndarray
    lengths_PN: dict[str, np.ndarray]

    def agreement(self) -> Agreement:
        """The counts over all pieces and kinds."""
        return Agreement(*self.counts_PK4.sum((0, 1)).tolist())


def tally(student: ByteStudent, rows: Rows) -> Tally:
    """Count what router and teacher do in all rows, piece by piece."""
    counts = []
    lengths = {who: [] for who in WHO}
    for batch, prob_BL, routed_BL in decisions(student, rows):
        batch = batch.to("cpu")
        routed_BL = routed_BL.cpu()
        cut_BL = (prob_BL >= THRESHOLD).cpu()
        # every piece begins with BOS, and BOS occurs nowhere else
        piece_BL = (batch.byte_ids_BL == BOS).flatten().cumsum(0).view_as(batch.byte_ids_BL) - 1
        pieces = int(piece_BL.max()) + 1
        kind_BL = kinds(batch.byte_ids_BL)
        true_BL = batch.boundary_BL
        counted = (cut_BL & true_BL, cut_BL & ~true_BL, ~cut_BL & true_BL, torch.ones_like(cut_BL))
        counts.append(torch.stack([_count(piece_BL[mask_BL & routed_BL], kind_BL[mask_BL & routed_BL], pieces,
                                          len(KINDS)) for mask_BL in counted], dim=-1))
        for who, ends_BL in zip(WHO, (cut_BL & batch.mask_BL, batch.boundary_BL), strict=True):
            ends = ends_BL.flatten().nonzero()[:, 0]
            length = torch.diff(ends, prepend=torch.tensor([-1]))
            # BOS ends whatever is before it (padding too), so a text's first chunk starts after it
            text = batch.byte_ids_BL.flatten()[ends] < BOS
            lengths[who].append(_count(piece_BL.flatten()[ends][text], length[text], pieces, rows.row_bytes + 1))
    found = {who: torch.cat(counted) for who, counted in lengths.items()}
    return Tally(torch.cat(counts).numpy(), {who: lengths_PN[:, : int(lengths_PN.sum(0).nonzero().max()) + 1].numpy()
                                             for who, lengths_PN in found.items()})


def _count(piece: Tensor, column: Tensor, pieces: int, columns: int) -> Tensor:
    """How often each column occurs in each piece: int64 [P, columns]."""
    return torch.bincount(piece * columns + column, minlength=pieces * columns).view(pieces, columns)


def kind_rows(found: Tally, **where: str) -> list[dict]:
    """Tidy rows, one per kind and one for all: F1 in percent as value, precision, recall and their counts.

    A kind at which neither router nor teacher sets a boundary has no F1 and no row, one of fewer than FEWEST positions
    no error. An error of 0 (nothing wrong in any piece) says little where n is small.
    """
    rows = []
    counts = [*found.counts_PK4.swapaxes(0, 1), found.counts_PK4.sum(1)]
    for kind, counts_P4 in zip((*KINDS, "all"), counts, strict=True):
        hits_P, false_P, missed_P, _ = counts_P4.T
        hits, false_cuts, missed_cuts, n = counts_P4.sum(0).tolist()
        if hits + false_cuts + missed_cuts == 0:
            continue
        row = where | {"kind": kind, "n": n}
        for name, error, over_P, under_P in (
            ("value", "stderr", 2 * hits_P, 2 * hits_P + false_P + missed_P),
            ("precision", "precision_stderr", hits_P, hits_P + false_P),
            ("recall", "recall_stderr", hits_P, hits_P + missed_P),
        ):
            rate = ratio_of_sums((over_P, under_P)) if under_P.sum() else Estimate(math.nan, math.nan, 0)
            row |= {name: 100 * rate.value, error: 100 * rate.stderr if n >= FEWEST else math.nan}
        rows.append(row | {"hits": hits, "false_cuts": false_cuts, "missed_cuts": missed_cuts})
    return rows


def space_rows(found: Tally, **where: str) -> list[dict]:
    """Space bias as tidy rows in percent or points: what, value, stderr, n, low, high, threshold, verdict.

    router cuts, teacher cuts   P(boundary | before a space), of the router and of the teacher
    router - teacher            their difference at the same positions: a router that prefers spaces is above 0
    recall beyond elsewhere     the router's recall before a space minus that at all other kinds: one that relies on
                                spaces finds the teacher's boundaries there and misses others, and is above 0
    false cuts                  the share of the router's false boundaries that is before a space
    false cuts beyond chance    that, minus the share there of all positions without a boundary of the teacher, which
                                is what random false boundaries would have: errors drawn to spaces are above 0

    SPACE_MEASURES says which are judged; the first row's claim is the paper's "consistently". What has no position to
    be counted at is left out: shares of false boundaries where there are none, and chance where the teacher has a
    boundary before every space.
    """
    here_P4 = found.counts_PK4[:, BEFORE_SPACE]
    everywhere_P4 = found.counts_PK4.sum(1)
    hits_P, false_P, missed_P, all_P = here_P4.T
    recalls = [(part_P4[:, 0], part_P4[:, 0] + part_P4[:, 2]) for part_P4 in (here_P4, everywhere_P4 - here_P4)]
    # where the teacher has no boundary: only there one can be false
    uncut_P, every_uncut_P = (part_P4[:, 3] - part_P4[:, 0] - part_P4[:, 2] for part_P4 in (here_P4, everywhere_P4))
    falsely = (false_P, everywhere_P4[:, 1])
    measures = {
        "router cuts": [(hits_P + false_P, all_P)], "teacher cuts": [(hits_P + missed_P, all_P)],
        "router - teacher": [(false_P - missed_P, all_P)], "recall beyond elsewhere": recalls, "false cuts": [falsely],
        "false cuts beyond chance": [falsely, (uncut_P, every_uncut_P)] if uncut_P.sum() else []}
    rows = []
    for what, ratios in measures.items():
        if ratios and all(under_P.sum() for _, under_P in ratios):
            counted = ratios if ratios is recalls else ratios[:1]
            n = int(sum(under_P.sum() for _, under_P in counted))
            rows.append(where | _judged(what, ratios, n, unit=100, threshold=SPACE_MEASURES[what]))
    return rows


def _judged(what: str, ratios: list[Ratio], n: int, *, unit: float, threshold: float) -> dict:
    """A tidy row in `unit`s, with the verdict on "above the threshold" if there is one."""
    found = ratio_of_sums(*ratios)
    value = unit * found.value
    stderr = unit * found.stderr
    # a normal interval needs events: one false boundary alone would have an error of nearly 0, one piece has none
    half = math.inf if math.isnan(stderr) or n < FEWEST else Z95 * stderr
    said = "" if math.isnan(threshold) else verdict(value - half, value + half, threshold=threshold)
    return {"what": what, "value": value, "stderr": stderr, "n": n, "low": value - half, "high": value + half,
            "threshold": threshold, "verdict": said}


def mean_rows(found: Tally, **where: str) -> list[dict]:
    """The mean length of a chunk in bytes as tidy rows: of router and teacher (n chunks), and their difference.

    The difference is judged: a router that finds too few segments has longer chunks than its teacher, above 0.
    """
    router, teacher = ((lengths_PN @ np.arange(lengths_PN.shape[1]), lengths_PN.sum(1))
                       for lengths_PN in (found.lengths_PN[who] for who in WHO))
    rows = [("router", [router], router, math.nan), ("teacher", [teacher], teacher, math.nan),
            ("router - teacher", [router, teacher], teacher, 0.0)]
    return [where | _judged(what, ratios, int(chunks_P.sum()), unit=1, threshold=threshold)
            for what, ratios, (_, chunks_P), threshold in rows]


def length_rows(found: Tally, **where: str) -> list[dict]:
    """Tidy rows, one per chunk length that occurs, of router and teacher: its share of the chunks (%), n chunks."""
    rows = []
    for who, lengths_PN in found.lengths_PN.items():
        chunks_P = lengths_PN.sum(1)
        for length in np.flatnonzero(lengths_PN.sum(0)):
            share = ratio_of_sums((lengths_PN[:, length], chunks_P))
            rows.append(where | {"who": who, "length": int(length), "value": 100 * share.value,
                                 "stderr": 100 * share.stderr, "n": int(chunks_P.sum())})
    return rows


def passage_of(documents: Sequence[str]) -> str:
    """The first PASSAGE characters of the first document, or of the line that is the first to leave ASCII, if any is.

    Inside characters of several bytes a router can set boundaries that no token model has, and such characters are
    rare. A word that the limit would split is left out.
    """
    text = next((text for text in documents if not text.isascii()), documents[0])
    if not text.isascii():
        first = next(place for place, character in enumerate(text) if not character.isascii())
        text = text[text.rfind("\n", 0, first) + 1:].strip()
    return text[:PASSAGE] if len(text) <= PASSAGE else text[:PASSAGE + 1].rsplit(maxsplit=1)[0]
