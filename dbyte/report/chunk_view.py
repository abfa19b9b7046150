"""Figure 3: text in the colours of the router's chunks, with probabilities, and the teacher's boundaries.

The picture is drawn from the rows of `boundaries.byte_rows` with the keys corpus and text, which hold every probability
as a number. A character is shown whole, above the probabilities of all its bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dbyte.model.router import THRESHOLD
from dbyte.report.diagrams import CHUNK_COLOURS, VISIBLE, characters
from dbyte.report.figures import GREY, STYLE

BOTH = "boundary of both"
ROUTER = "boundary of the router alone"
TEACHER = "boundary of the teacher alone"
NOBODY = "no boundary"
WHO = {(True, True): BOTH, (True, False): ROUTER, (False, True): TEACHER, (False, False): NOBODY}
BOUNDARY_LOOKS = {BOTH: ("#000000", "-", 1.2), ROUTER: ("#d55e00", "-", 2.2), TEACHER: ("#0072b2", (0, (2, 1)), 2.2)}
SPLIT_COLOUR = "#a0006d"
BAR_COLOURS = {True: "#444444", False: "#b5b5b5"}  # from the threshold on, and below it


@dataclass(frozen=True)
class Byte:
    """A byte of a text: its value, the router's probability, whether the teacher puts a boundary after it.

    chunk, token: how many chunks of the router's and tokens end before it.
    """

    value: int
    prob: float
    teacher: bool
    chunk: int
    token: int

    @property
    def router(self) -> bool:
        return self.prob >= THRESHOLD

    @property
    def who(self) -> str:
        """Who puts a boundary after it, in words."""
        return WHO[self.router, self.teacher]


@dataclass(frozen=True)
class Character:
    """A character as it is and as a picture can draw it, and its bytes."""

    text: str
    label: str
    bytes: tuple[Byte, ...]

    @property
    def split(self) -> bool:
        """Whether the router or the teacher puts a boundary inside it, where no text can be split."""
        return any(byte.router or byte.teacher for byte in self.bytes[:-1])


def read(rows: pd.DataFrame) -> list[Character]:
    """Return the characters of one text from its rows: place, byte, value, teacher.

    Raises ValueError where the places are not 0, 1, 2 .., as with two texts at once.
    """
    rows = rows.sort_values("place", kind="stable")
    if list(rows["place"]) != list(range(len(rows))):
        raise ValueError("the rows must be all bytes of one text: choose one corpus and one text")
    chunk = (rows["value"] >= THRESHOLD).cumsum().shift(fill_value=0)
    token = rows["teacher"].astype(bool).cumsum().shift(fill_value=0)
    each = [Byte(row.byte, row.value, bool(row.teacher), row.chunk, row.token)
            for row in rows.assign(chunk=chunk, token=token).itertuples()]
    text = bytes(byte.value for byte in each)
    return [Character(text[start:start + size].decode(errors="replace"), label, tuple(each[start:start + size]))
            for start, size, label in characters(text)]


def tallied(text: Sequence[Character]) -> str:
    """Return how many chunks router and teacher make of a text, and how many boundaries are of one alone, in words."""
    each = [byte for character in text for byte in character.bytes]
    alone = [sum(byte.who == who for byte in each) for who in (ROUTER, TEACHER)]
    return (f"chunks: router {sum(byte.router for byte in each)}, teacher {sum(byte.teacher for byte in each)}; "
            f"boundaries of one alone: router {alone[0]}, teacher {alone[1]}")


STRIP, LETTERS, BARS = 0.5, 1.5, 1.4  # heights: of the teacher's strip, of characters, of probabilities,
LINE, KEY_HEIGHT = 4.2, 3.8  # from line to line, and of the key


def figure(rows: pd.DataFrame, *, per_line: int = 84) -> Figure:
    """Return the texts of one corpus as a picture, `per_line` bytes a line, clean text first.

    rows: corpus, text, place, byte, value (probability), teacher.
    """
    titles = sorted(rows["text"].unique(), key=lambda name: (name != "clean", name))
    texts = {f"{rows['corpus'].iloc[0]}, {name}": read(rows[rows["text"] == name]) for name in titles}
    lines = {title: -(-sum(len(character.bytes) for character in text) // per_line) for title, text in texts.items()}
    height = KEY_HEIGHT + sum(1.8 + LINE * count for count in lines.values())
    with rc_context(STYLE):
        picture = Figure(figsize=(0.112 * (per_line + 5), 0.125 * height))
        axes = picture.add_axes((0, 0, 1, 1))
        _key(axes, per_line)
        top = -KEY_HEIGHT
        for title, text in texts.items():
            axes.text(0, top - 0.8, title, fontsize=10, fontweight="bold", va="center")
            axes.text(per_line, top - 0.8, tallied(text), fontsize=7.5, va="center", ha="right", color="#444444")
            _text(axes, text, top=top - 1.8, per_line=per_line)
            top -= 1.8 + LINE * lines[title]
        axes.set(xlim=(-4.5, per_line + 0.5), ylim=(-height, 0))
        axes.axis("off")
    return picture


def _text(axes: Axes, text: Sequence[Character], *, top: float, per_line: int) -> None:
    """Draw one text from `top` downwards; a character whose bytes wrap is written on its first line."""
    size = sum(len(character.bytes) for character in text)
    start = 0
    for character in text:
        for place, byte in enumerate(character.bytes, start=start):
            x, y = place % per_line, top - LINE * (place // per_line)
            if x == 0:
                _line(axes, y, min(per_line, size - place))
            _byte(axes, byte, x, y)
        x, y = start % per_line, top - LINE * (start // per_line)
        width = min(len(character.bytes), per_line - x)
        colour = GREY if character.text in VISIBLE else "black"
        axes.text(x + width / 2, y - STRIP - LETTERS / 2, character.label, ha="center", va="center", color=colour,
                  fontsize=9 if len(character.label) == 1 else 5, zorder=4)
        if character.split:
            axes.add_patch(Rectangle((x, y - STRIP - LETTERS), width, LETTERS, fill=False, linewidth=1.4,
                                     edgecolor=SPLIT_COLOUR, linestyle=":", zorder=5))
        start += len(character.bytes)


def _line(axes: Axes, y: float, size: int) -> None:
    """Draw the labels left of a line of `size` bytes, and the height of the threshold among its bars."""
    for label, middle in (("teacher", STRIP / 2), ("router", STRIP + LETTERS / 2), ("p", STRIP + LETTERS + BARS / 2)):
        axes.text(-0.4, y - middle, label, fontsize=6, ha="right", va="center", color=GREY)
    half = y - STRIP - LETTERS - BARS * (1 - THRESHOLD)
    axes.plot([0, size], [half, half], color=GREY, linewidth=0.4, zorder=0)


def _byte(axes: Axes, byte: Byte, x: float, y: float) -> None:
    """Draw a byte's strip, background, bar and boundary; x, y: its upper left corner."""
    letters = y - STRIP - LETTERS
    bars = letters - BARS
    axes.add_patch(Rectangle((x, y - STRIP), 1, STRIP, facecolor=("#555555", "#bbbbbb")[byte.token % 2], linewidth=0))
    axes.add_patch(Rectangle((x, letters), 1, LETTERS, linewidth=0,
                             facecolor=CHUNK_COLOURS[byte.chunk % len(CHUNK_COLOURS)]))
    axes.add_patch(Rectangle((x + 0.15, bars), 0.7, BARS * byte.prob * 0.94, linewidth=0,
                             facecolor=BAR_COLOURS[byte.router]))
    if byte.who in BOUNDARY_LOOKS:
        colour, style, width = BOUNDARY_LOOKS[byte.who]
        axes.plot([x + 1, x + 1], [letters if byte.who == BOTH else bars, y], color=colour, linestyle=style, zorder=3,
                  linewidth=width, solid_capstyle="butt")


def _key(axes: Axes, per_line: int) -> None:
    """Explain, above the texts, what is what."""
    axes.text(0, -0.8, "strip above: the teacher's tokens · background: the router's chunks · bars: probability that a "
              "chunk ends at the byte, line at 0.5", fontsize=7.5, va="center")
    for index, (label, (colour, style, width)) in enumerate(BOUNDARY_LOOKS.items()):
        x = index * 0.26 * per_line
        axes.plot([x + 0.5, x + 0.5], [-2.9, -1.7], color=colour, linestyle=style, linewidth=width)
        axes.text(x + 1.2, -2.3, label, fontsize=7.5, va="center", color=colour)
    x = 0.78 * per_line
    axes.add_patch(Rectangle((x, -2.9), 2, 1.2, fill=False, edgecolor=SPLIT_COLOUR, linestyle=":", linewidth=1.4))
    axes.text(x + 2.5, -2.3, "boundary inside a character", fontsize=7.5, va="center", color=SPLIT_COLOUR)
