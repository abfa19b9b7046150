"""Pictures that show no measurement: how text, bytes and tokens align (Section 4.1), what each step trains (4.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from dbyte.report.figures import GREY, STYLE

CHUNK_COLOURS = ("#a9d6f2", "#f7efa0", "#ecc3d9", "#c2e6cf")  # pale enough for black text; neighbours differ
VISIBLE = {" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥"}


def chunks(byte_ids: Sequence[int], boundary: Sequence[bool]) -> list[bytes]:
    """Return the bytes of each chunk: a new one starts after each True, and bytes after the last True are one more.

    byte_ids: 0..255, length L; boundary: length L, True at a chunk's last byte. Tensors and arrays are welcome.
    """
    found, current = [], bytearray()
    for byte, last in zip(byte_ids, boundary, strict=True):
        current.append(int(byte))
        if last:
            found.append(bytes(current))
            current.clear()
    return found + ([bytes(current)] if current else [])


def characters(text: bytes) -> list[tuple[int, int, str]]:
    """Return (first byte, number of bytes, label) of every character; a byte outside UTF-8 gets the label `·`."""
    found, start = [], 0
    while start < len(text):
        for size in (1, 2, 3, 4):
            try:
                character = text[start:start + size].decode("utf-8")
                break
            except UnicodeDecodeError:
                continue
        else:
            size, character = 1, "·"
        found.append((start, min(size, len(text) - start), _label(character)))
        start += size
    return found


def _label(character: str) -> str:
    """Return what the font can draw for a character: itself, a sign for a blank, else its code point."""
    shown = VISIBLE.get(character, character)
    drawable = get_font(findfont(FontProperties(family=STYLE["font.family"]))).get_char_index(ord(shown)) != 0
    return shown if drawable and shown.isprintable() else f"{ord(character):X}"


def _strip(axes: Axes, pieces: Sequence[bytes], *, top: float, per_line: int) -> float:
    """Draw one text from height `top` downwards, `per_line` bytes a line, and return the height where it ends."""
    text = b"".join(pieces)
    owner = [index for index, piece in enumerate(pieces) for _ in piece]
    for place, byte in enumerate(text):
        x, y = place % per_line, top - 2.5 * (place // per_line)
        colour = CHUNK_COLOURS[owner[place] % len(CHUNK_COLOURS)]
        axes.add_patch(Rectangle((x, y - 2), 1, 2, facecolor=colour, edgecolor="white", linewidth=0.6))
        axes.text(x + 0.5, y - 1.5, f"{byte:02x}", ha="center", va="center", fontsize=6, color="#333333",
                  family="DejaVu Sans Mono")
        if place + 1 == len(text) or owner[place + 1] != owner[place]:
            axes.plot([x + 1, x + 1], [y - 2.12, y + 0.12], color="black", linewidth=1.6, zorder=3)
    for start, size, label in characters(text):
        # A character whose bytes wrap is written over those on its first line.
        x, y = start % per_line, top - 2.5 * (start // per_line)
        middle = x + min(size, per_line - x) / 2
        axes.text(middle, y - 0.6, label, ha="center", va="center", fontsize=9 if len(label) == 1 else 5)
    return top - 2.5 * -(-len(text) // per_line)


def alignment_figure(examples: Sequence[tuple[str, Sequence[bytes]]], *, per_line: int = 44) -> Figure:
    """Return texts as bytes in the colours of their chunks: characters above, hex below, a bar at each boundary.

    examples: (title, the bytes of each chunk), as `chunks` makes them. Raises ValueError for an empty text.
    """
    if empty := [title for title, pieces in examples if not b"".join(pieces)]:
        raise ValueError(f"nothing to draw for {', '.join(empty)}: the text is empty")
    heights = [1.6 + 2.5 * -(-sum(map(len, pieces)) // per_line) for _, pieces in examples]
    with rc_context(STYLE):
        figure = Figure(figsize=(0.2 * per_line + 0.2, 0.2 * sum(heights)))
        axes = figure.add_axes((0, 0, 1, 1))
        top = 0.0
        for title, pieces in examples:
            axes.text(0, top - 0.75, title, fontsize=9, fontweight="bold", va="center")
            top = _strip(axes, pieces, top=top - 1.5, per_line=per_line) - 0.1
        axes.set(xlim=(-0.2, per_line + 0.2), ylim=(top, 0.2))
        axes.axis("off")
    return figure


@dataclass(frozen=True)
class Card:
    """A step of the curriculum as the picture shows it; parts are named by the row they stand in."""

    title: str
    trains: frozenset[str]
    frozen: frozenset[str]
    loss: str
    boundaries: str
    stage: int


ROWS = ("encoder", "router", "core", "head")
STUDENT = {"encoder": "encoder", "router": "router", "core": "core"}
HEAD = {1: "LM head", 2: "dechunk, decoder,\nbyte head"}
TEACHER = {"encoder": "embeddings", "router": "tokenizer", "core": "transformer", "head": "LM head"}
CARDS = (
    Card("1.1 align", frozenset({"encoder"}), frozenset(), "align: match the\ntoken embeddings", "teacher's", 1),
    Card("1.2 distil", frozenset({"encoder", "core"}), frozenset({"head"}), "distil: match the\nnext-token law",
         "teacher's", 1),
    Card("1.3 boundary", frozenset({"router"}), frozenset({"encoder", "core", "head"}),
         "boundary: predict\nwhere tokens end", "teacher's labels", 1),
    Card("2.1 head", frozenset({"head"}), frozenset({"encoder", "router", "core"}), "next byte and\nits boundary",
         "router's", 2),
    Card("2.2 full", frozenset(ROWS) - {"router"}, frozenset({"router"}), "next byte and\nits boundary", "router's", 2),
)
TRAIN_COLOUR, FROZEN_COLOUR, TEACHER_COLOUR = "#f2b33d", "#e4e4e4", "#3b3b3b"
WIDTH, HEIGHT, PITCH, RISE = 1.5, 0.62, 1.95, 0.9  # of a box, and from one to the next, in inches


def _box(axes: Axes, x: float, row: int, label: str, *, face: str, text: str = "black", dashed: bool = False) -> None:
    axes.add_patch(FancyBboxPatch(
        (x, row * RISE), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", facecolor=face,
        edgecolor=GREY if dashed else "#555555", linestyle=":" if dashed else "-", linewidth=0.9))
    axes.text(x + WIDTH / 2, row * RISE + HEIGHT / 2, label, ha="center", va="center", fontsize=9, color=text)


def _column(axes: Axes, x: float, card: Card) -> None:
    labels = {**STUDENT, "head": HEAD[card.stage]}
    for row, part in enumerate(ROWS):
        if part in card.trains:
            _box(axes, x, row, labels[part], face=TRAIN_COLOUR)
        elif part in card.frozen:
            _box(axes, x, row, labels[part], face=FROZEN_COLOUR)
        else:
            _box(axes, x, row, labels[part], face="white", text=GREY, dashed=True)
    top = len(ROWS) * RISE
    axes.text(x + WIDTH / 2, top + 0.5, card.title, ha="center", va="bottom", fontsize=11, fontweight="bold")
    axes.text(x + WIDTH / 2, top + 0.42, card.loss, ha="center", va="top", fontsize=8)
    axes.text(x + WIDTH / 2, -0.2, f"boundaries: {card.boundaries}", ha="center", va="top", fontsize=8, color="#444444")


def pipeline_figure() -> Figure:
    """Return the way from the teacher to the byte-level student: a column a step, what trains in it, what is frozen."""
    with rc_context(STYLE):
        figure = Figure(figsize=(PITCH * (len(CARDS) + 1), 5.3))
        axes = figure.add_axes((0, 0, 1, 1))
        for row, part in enumerate(ROWS):
            _box(axes, 0, row, TEACHER[part], face=TEACHER_COLOUR, text="white")
        top = len(ROWS) * RISE
        axes.text(WIDTH / 2, top + 0.5, "teacher", ha="center", va="bottom", fontsize=11, fontweight="bold")
        axes.text(WIDTH / 2, top + 0.42, "reads and writes\ntokens", ha="center", va="top", fontsize=8)
        for index, card in enumerate(CARDS, start=1):
            _column(axes, index * PITCH, card)
            axes.add_patch(FancyArrowPatch(((index - 1) * PITCH + WIDTH + 0.05, 1.75), (index * PITCH - 0.05, 1.75),
                                           arrowstyle="-|>", mutation_scale=11, color="#555555", linewidth=1.2))
        _stage_line(axes, 1, 3, "Stage 1: bytes in, tokens out")
        _stage_line(axes, 4, 5, "Stage 2: bytes in, bytes out")
        _key(axes)
        axes.set(xlim=(-0.15, PITCH * len(CARDS) + WIDTH + 0.15), ylim=(-1.05, top + 1.4))
        axes.axis("off")
    return figure


def _stage_line(axes: Axes, first: int, last: int, label: str) -> None:
    """Draw a line over the columns `first` to `last`, with what the stage is written on it."""
    left, right, height = first * PITCH, last * PITCH + WIDTH, len(ROWS) * RISE + 0.95
    axes.plot([left, right], [height, height], color="#555555", linewidth=1.4)
    axes.text((left + right) / 2, height + 0.07, label, ha="center", va="bottom", fontsize=11)


def _key(axes: Axes) -> None:
    entries = (("trains", TRAIN_COLOUR, "-"), ("frozen", FROZEN_COLOUR, "-"), ("not used yet", "white", ":"))
    for index, (label, face, line) in enumerate(entries):
        x = PITCH + index * 1.5
        axes.add_patch(Rectangle((x, -0.88), 0.26, 0.2, facecolor=face, edgecolor="#555555", linestyle=line))
        axes.text(x + 0.36, -0.78, label, va="center", fontsize=9)
