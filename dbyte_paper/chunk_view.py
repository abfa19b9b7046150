"""Figure 3: text in the colours of the router's chunks, with probabilities, and the teacher's boundaries.

The picture is drawn from the rows of `boundaries.byte_rows` with the keys corpus and text, which hold every probability
as a number. A character is shown whole, above the probabilities of all its bytes.
"""

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dbyte.model.router import THRESHOLD
from dbyte_paper.diagrams import CHUNK_COLOURS, VISIBLE, characters
from dbyte_paper.figures import GREY, STYLE

BOTH = "boundary of both"
ROUTER = "boundary of the router alone"
TEACHER = "boundary of the teacher alone"
NOBODY = "no boundary"
WHO = {(True, True): BOTH, (True, False): ROUTER, (False, True): TEACHER, (False, False): NOBODY}
BOUNDARY_LOOKS = {BOTH: ("#000000", "-", 1.2), ROUTER: ("#d55e00", "-", 2.2), TEACHER: ("#0072b2", (0, (2, 1)), 2.2)}
SPLIT_COLOUR = "#a0006d"


def read(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the bytes of one text in order, with what the picture shows of each.

    rows: place, byte, value (the router's probability), teacher. Added: router, whether it puts a boundary after the
    byte; who does, in words; chunk and token, how many of the router's chunks and of the tokens end before it; start,
    size and label of its character; split, whether there is a boundary inside that, where no text can be split.
    Raises ValueError where the places are not 0, 1, 2 .., as with two texts at once.
    """
    rows = rows.sort_values("place", kind="stable").reset_index(drop=True)
    if list(rows["place"]) != list(rows.index):
        raise ValueError("the rows must be all bytes of one text: choose one corpus and one text")
    router = rows["value"] >= THRESHOLD
    teacher = rows["teacher"].astype(bool)
    spans = pd.DataFrame(characters(bytes(rows["byte"].tolist())), columns=["start", "size", "label"])
    own = spans.loc[spans.index.repeat(spans["size"])].reset_index(drop=True)
    inside = (router | teacher) & (rows.index < own["start"] + own["size"] - 1)
    return rows.join(own).assign(
        router=router, who=[WHO[pair] for pair in zip(router, teacher, strict=True)],
        chunk=router.cumsum().shift(fill_value=0), token=teacher.cumsum().shift(fill_value=0),
        split=inside.groupby(own["start"]).transform("any"))


def tallied(text: pd.DataFrame) -> str:
    """Return how many chunks router and teacher make of a text, and how many boundaries are of one alone, in words."""
    alone = [(text["who"] == who).sum() for who in (ROUTER, TEACHER)]
    return (f"chunks: router {text['router'].sum()}, teacher {text['teacher'].sum()}; "
            f"boundaries of one alone: router {alone[0]}, teacher {alone[1]}")


STRIP, LETTERS, BARS = 0.5, 1.5, 1.4  # heights: of the teacher's strip, of characters, of probabilities,
LINE, KEY_HEIGHT = 4.2, 3.8  # from line to line, and of the key


def figure(rows: pd.DataFrame, *, per_line: int = 84) -> Figure:
    """Return the texts of one corpus as a picture, `per_line` bytes per line, clean text first.

    rows: corpus, text, place, byte, value (probability), teacher.
    """
    titles = sorted(rows["text"].unique(), key=lambda name: (name != "clean", name))
    texts = {f"{rows['corpus'].iloc[0]}, {name}": read(rows[rows["text"] == name]) for name in titles}
    lines = {title: -(-len(text) // per_line) for title, text in texts.items()}
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


def _text(axes: Axes, text: pd.DataFrame, *, top: float, per_line: int) -> None:
    """Draw one text from `top` downwards; a character whose bytes wrap is written on its first line."""
    x = text["place"] % per_line
    y = top - LINE * (text["place"] // per_line)
    letters = y - STRIP - LETTERS
    bars = letters - BARS
    for left, width, low, height, colours in (
        (x, 1, y - STRIP, STRIP, np.where(text["token"] % 2, "#bbbbbb", "#555555")),
        (x, 1, letters, LETTERS, np.take(CHUNK_COLOURS, text["chunk"], mode="wrap")),
        (x + 0.15, 0.7, bars, BARS * text["value"] * 0.94, np.where(text["router"], "#444444", "#b5b5b5")),
    ):
        axes.bar(left, height, width, low, align="edge", color=colours, linewidth=0)
    for who, (colour, style, width) in BOUNDARY_LOOKS.items():
        own = text["who"] == who
        low = letters if who == BOTH else bars
        axes.plot(np.stack([x[own] + 1] * 2), np.stack([low[own], y[own]]), color=colour, linestyle=style, zorder=3,
                  linewidth=width, solid_capstyle="butt")
    for one in text[text["place"] == text["start"]].assign(x=x, low=letters).itertuples():
        width = min(one.size, per_line - one.x)
        colour = GREY if chr(one.byte) in VISIBLE else "black"
        axes.text(one.x + width / 2, one.low + LETTERS / 2, one.label, ha="center", va="center", color=colour,
                  fontsize=9 if len(one.label) == 1 else 5, zorder=4)
        if one.split:
            axes.add_patch(Rectangle((one.x, one.low), width, LETTERS, fill=False, linewidth=1.4,
                                     edgecolor=SPLIT_COLOUR, linestyle=":", zorder=5))
    for start in range(0, len(text), per_line):
        _line(axes, y[start], min(per_line, len(text) - start))


def _line(axes: Axes, y: float, size: int) -> None:
    """Draw the labels left of a line of `size` bytes, and the height of the threshold among its bars."""
    for label, middle in (("teacher", STRIP / 2), ("router", STRIP + LETTERS / 2), ("p", STRIP + LETTERS + BARS / 2)):
        axes.text(-0.4, y - middle, label, fontsize=6, ha="right", va="center", color=GREY)
    half = y - STRIP - LETTERS - BARS * (1 - THRESHOLD)
    axes.plot([0, size], [half, half], color=GREY, linewidth=0.4, zorder=0)


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
