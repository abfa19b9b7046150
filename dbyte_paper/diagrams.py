"""Pictures that show no measurement: how text, bytes and tokens align (Section 4.1), what each step trains (4.2)."""

import tomllib
from collections.abc import Sequence
from importlib.resources import files

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.patheffects import withStroke

from dbyte.distill.steps import CORE, DECODER, ENCODER, ROUTER, Step
from dbyte_paper.figures import GREY, STYLE

CHUNK_COLOURS = ("#a9d6f2", "#f7efa0", "#ecc3d9", "#c2e6cf")  # pale enough for black text; neighbours differ
PER_LINE = 44  # bytes of a text
VISIBLE = {" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥"}


def characters(text: bytes) -> list[tuple[int, int, str]]:
    """Return (first byte, number of bytes, label) of every character; a byte outside UTF-8 gets the label `·`."""
    found = []
    start = 0
    for character in text.decode("utf-8", errors="surrogateescape"):
        size = len(character.encode("utf-8", errors="surrogateescape"))
        outside = "\udc80" <= character <= "\udcff"
        found.append((start, size, "·" if outside else _label(character)))
        start += size
    return found


def _label(character: str) -> str:
    """Return what the font can draw for a character: itself, a sign for a blank, else its code point, U+XXXX."""
    shown = VISIBLE.get(character, character)
    drawable = get_font(findfont(FontProperties(family=STYLE["font.family"]))).get_char_index(ord(shown)) != 0
    return shown if drawable and shown.isprintable() else f"U+{ord(character):X}"


def _strip(axes: Axes, pieces: Sequence[bytes], *, top: float) -> float:
    """Draw one text from height `top` downwards and return the height where it ends."""
    text = b"".join(pieces)
    owner = [index for index, piece in enumerate(pieces) for _ in piece]
    for place, byte in enumerate(text):
        x, y = place % PER_LINE, top - 2.5 * (place // PER_LINE)
        colour = CHUNK_COLOURS[owner[place] % len(CHUNK_COLOURS)]
        axes.add_patch(Rectangle((x, y - 2), 1, 2, facecolor=colour, edgecolor="white", linewidth=0.6))
        axes.text(x + 0.5, y - 1.5, f"{byte:02x}", ha="center", va="center", fontsize=6, color="#333333",
                  family="DejaVu Sans Mono")
        if place + 1 == len(text) or owner[place + 1] != owner[place]:
            axes.plot([x + 1, x + 1], [y - 2.12, y + 0.12], color="black", linewidth=1.6, zorder=3)
    for start, size, label in characters(text):
        # A character whose bytes wrap is written over those on its first line.
        x, y = start % PER_LINE, top - 2.5 * (start // PER_LINE)
        middle = x + min(size, PER_LINE - x) / 2
        axes.text(middle, y - 0.6, label, ha="center", va="center", fontsize=9 if len(label) == 1 else 5, zorder=4,
                  path_effects=[withStroke(linewidth=2, foreground="white")])  # readable on top of a boundary's bar
    return top - 2.5 * -(-len(text) // PER_LINE)


def alignment_figure(examples: Sequence[tuple[str, Sequence[bytes]]]) -> Figure:
    """Return texts as bytes in the colours of their chunks: characters above, hex below, a bar at each boundary.

    examples: (title, the bytes of each chunk). Raises ValueError for an empty text.
    """
    if empty := [title for title, pieces in examples if not b"".join(pieces)]:
        raise ValueError(f"nothing to draw for {', '.join(empty)}: the text is empty")
    heights = [1.6 + 2.5 * -(-sum(map(len, pieces)) // PER_LINE) for _, pieces in examples]
    with rc_context(STYLE):
        figure = Figure(figsize=(0.2 * PER_LINE + 0.2, 0.2 * sum(heights)))
        axes = figure.add_axes((0, 0, 1, 1))
        top = 0.0
        for title, pieces in examples:
            axes.text(0, top - 0.75, title, fontsize=9, fontweight="bold", va="center")
            top = _strip(axes, pieces, top=top - 1.5) - 0.1
        axes.set(xlim=(-0.2, PER_LINE + 0.2), ylim=(top, 0.2))
        axes.axis("off")
    return figure


PARTS = {"encoder": ENCODER, "router": ROUTER, "core": CORE, "head": DECODER}  # a row of the picture each, upwards
HEAD = {1: "LM head", 2: "dechunk, decoder,\nbyte head"}
TEACHER = ("embeddings", "tokenizer", "transformer", "LM head")
CARDS = {objective: card for card in tomllib.loads((files("dbyte_paper") / "pipeline.toml").read_text("utf-8"))["card"]
         for objective in card["objectives"]}
TRAIN_COLOUR = "#f2b33d"
LINE = "#555555"
LOOKS = {"trains": dict(facecolor=TRAIN_COLOUR, edgecolor=LINE), "frozen": dict(facecolor="#e4e4e4", edgecolor=LINE),
         "not used": dict(facecolor="white", edgecolor=GREY, linestyle=":"),
         "teacher": dict(facecolor="#3b3b3b", edgecolor=LINE)}
TEXT_COLOURS = {"teacher": "white", "not used": GREY}
WIDTH, HEIGHT, PITCH, RISE = 1.5, 0.62, 1.95, 0.9  # of a box, and from one to the next, in inches
TOP = len(PARTS) * RISE


def _column(axes: Axes, x: float, title: str, about: str, boxes: Sequence[tuple[str, str]]) -> None:
    """Draw a title, a line about it, and below them boxes from the lowest upwards, each a label and one of LOOKS."""
    for row, (label, look) in enumerate(boxes):
        axes.add_patch(FancyBboxPatch((x, row * RISE), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.08",
                                      linewidth=0.9, **LOOKS[look]))
        axes.text(x + WIDTH / 2, row * RISE + HEIGHT / 2, label, ha="center", va="center", fontsize=9,
                  color=TEXT_COLOURS.get(look, "black"))
    axes.text(x + WIDTH / 2, TOP + 0.58, title, ha="center", va="bottom", fontsize=11, fontweight="bold")
    axes.text(x + WIDTH / 2, TOP + 0.5, about, ha="center", va="top", fontsize=8)


def kind(step: Step) -> str:
    """What a step minimises, without the numbers in its objective's name."""
    return step.objective.name.split()[0]


def _step(axes: Axes, x: float, step: Step) -> None:
    """Draw the column of a step, with the arrow that leads to it."""
    card = CARDS[kind(step)]
    trained = {part for group in step.groups for part in group.parts}
    looks = ["trains" if trained & set(modules) else "frozen" if part in card["uses"] else "not used"
             for part, modules in PARTS.items()]
    _column(axes, x, step.name, card["loss"], list(zip([*list(PARTS)[:3], HEAD[step.stage]], looks, strict=True)))
    axes.text(x + WIDTH / 2, -0.2, f"boundaries: {card['boundaries']}", ha="center", va="top", fontsize=8,
              color="#444444")
    axes.add_patch(FancyArrowPatch((x - PITCH + WIDTH + 0.05, 1.75), (x - 0.05, 1.75), arrowstyle="-|>",
                                   mutation_scale=11, color=LINE, linewidth=1.2))


def pipeline_figure(steps: Sequence[Step]) -> Figure:
    """Return the way from the teacher to the byte-level student: one column per step, what trains, what is frozen.

    steps: a curriculum, its steps of Stage 1 before those of Stage 2. Raises ValueError for any other order, or for a
    step with another objective than those of section 4.2.
    """
    stages = [step.stage for step in steps]
    if not steps or stages != sorted(stages) or any(kind(step) not in CARDS for step in steps):
        raise ValueError(f"the picture needs steps of Stage 1, then of Stage 2, with objectives among "
                         f"{', '.join(CARDS)}; found {[(step.stage, step.objective.name) for step in steps]}")
    with rc_context(STYLE):
        figure = Figure(figsize=(PITCH * (len(steps) + 1), 5.45))
        axes = figure.add_axes((0, 0, 1, 1))
        _column(axes, 0, "teacher", "reads and writes\ntokens", [(label, "teacher") for label in TEACHER])
        for index, step in enumerate(steps, start=1):
            _step(axes, index * PITCH, step)
        for stage, label in ((1, "Stage 1: bytes in, tokens out"), (2, "Stage 2: bytes in, bytes out")):
            if stage in stages:
                left = (1 + stages.index(stage)) * PITCH
                right = (stages.index(stage) + stages.count(stage)) * PITCH + WIDTH
                axes.plot([left, right], [TOP + 1.05, TOP + 1.05], color=LINE, linewidth=1.4)
                axes.text((left + right) / 2, TOP + 1.05 + 0.07, label, ha="center", va="bottom", fontsize=11)
        for index, look in enumerate(("trains", "frozen", "not used")):
            x = PITCH + index * 1.5
            axes.add_patch(Rectangle((x, -0.88), 0.26, 0.2, **LOOKS[look] | {"edgecolor": LINE}))
            axes.text(x + 0.36, -0.78, look, va="center", fontsize=9)
        axes.set(xlim=(-0.15, PITCH * len(steps) + WIDTH + 0.15), ylim=(-1.05, TOP + 1.55))
        axes.axis("off")
    return figure
