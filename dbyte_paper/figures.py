"""The figures of measurements and of the claims, drawn from results alone.

One style for all: colours of Okabe and Ito, which colour-blind readers can tell apart, a marker shape for every colour,
labels on the lines, units on the axes. `save` writes the same bytes for the same results, and next to the PNG a .json
that names every file whose numbers it shows. Bars and bands are two standard errors.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from textwrap import fill

import pandas as pd
from matplotlib import rc_context, rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dbyte.atomic import atomic_write
from dbyte.paths import FIGURES
from dbyte_paper.claims import UNMEASURED
from dbyte_paper.tables import BENCHMARKS, NOISE, SIGMA, wide

STYLE = rc_params_from_file(str(files("dbyte_paper") / "figures.mplstyle"), use_default_template=False)
GREY = "#7a7a7a"
# Each with a marker of its own: colour is never the only sign.
LOOKS = {"teacher": ("#000000", "D"), "stage1": ("#0072b2", "o"), "stage2": ("#d55e00", "s")}
LABELS = {"teacher": "teacher", "stage1": "Stage 1", "stage2": "Stage 2"}
DECODINGS = {"JBP": ("#d55e00", "s"), "MBP": ("#cc79a7", "^")}
EXPOSURE = ("bytes after the prompt\n\n"
            "JBP: a flag that comes with each byte sets the boundary. MBP: a guess of the next byte does.\n"
            "given text: held-out bytes, so only boundaries are the decoder's. written text: its bytes are, too.")
WHO = {"teacher": ("#000000", "D"), "router": ("#d55e00", "o")}
VERDICT_LOOKS = {"shown": ("#0072b2", "o"), "equal": ("#009e73", "D"), "not shown": ("#e69f00", "s"),
                 "opposite": ("#d55e00", "X"), "uninformative": ("#b0b0b0", "|")}
BARS = {"elinewidth": 1, "capsize": 2}  # of errors
MB = 1e6
LONGEST = 12  # bytes of a chunk that has a bin of its own


def save(figure: Figure, name: str, *, frames: Sequence[pd.DataFrame], published: Sequence[str] = (),
         folder: Path = FIGURES, scale: str | None = None) -> Path:
    """Write figures/<scale>/<name>.png and the .json that names what it shows, and return the PNG's path.

    frames: all that the figure shows, as `read_results` returned it; their scale is the figure's. published: names of
    the paper's tables in it. scale: for a figure that also says what is missing, and may have no frames at all. Raises
    ValueError where the frames come from two scales, or not from results.
    """
    if not (frames or scale) or any("provenance" not in frame.attrs for frame in frames):
        raise ValueError(f"figure {name!r} must be drawn from what read_results returned: pass those very frames")
    scales = sorted({frame.attrs["provenance"]["scale"] for frame in frames} | ({scale} if scale else set()))
    if len(scales) != 1:
        raise ValueError(f"figure {name!r} mixes the scales {scales}: draw one figure per scale")
    reads = {frame.attrs["file"]: frame.attrs["provenance"]["sha256"] for frame in frames}
    sidecar = {"figure": name, "scale": scales[0], "reads": dict(sorted(reads.items())), "published": list(published)}
    path = folder / scales[0] / f"{name}.png"
    atomic_write(path.with_suffix(".json"), json.dumps(sidecar, indent=2) + "\n")
    return write_png(figure, path)


def write_png(figure: Figure, path: Path) -> Path:
    """Write the figure to `path`, byte for byte the same for the same figure."""
    buffer = BytesIO()
    with rc_context(STYLE):
        # Without it matplotlib writes its own version into the file.
        figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None})
    atomic_write(path, buffer.getvalue())
    return path


def panels(rows: int, columns: int, *, size: tuple[float, float], labels: tuple[str, str], **shared) -> tuple:
    """Return a figure of `size` in inches and its axes [rows, columns].

    labels: what is written below and left of all panels, "" for nothing. shared: `sharex`, `sharey` of `subplots`.
    """
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **shared)
    below, left = labels
    if below:
        figure.supxlabel(below, fontsize=9)
    if left:
        figure.supylabel(left, fontsize=9)
    return figure, grid


def legend_above(figure: Figure) -> Figure:
    """Draw one legend for all panels, above them, with the names of the first, and return the figure."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


@rc_context(STYLE)
def exposure_figure(exposure: pd.DataFrame) -> Figure:
    """Return how often decoded boundaries are not the router's by distance from the prompt, one panel per corpus.

    exposure: rows with model ("JBP", "MBP"), corpus, text ("given", "written"), first, last, value (percent), stderr.
    """
    corpora = sorted(set(exposure["corpus"]))
    figure, grid = panels(1, len(corpora), size=(1.0 + 3.4 * len(corpora), 3.6), sharey=True,
                          labels=(EXPOSURE, "boundaries that are not the router's (%)"))
    for axes, corpus in zip(grid.flat, corpora, strict=True):
        for (model, text), part in exposure[exposure["corpus"] == corpus].groupby(["model", "text"]):
            colour, marker = DECODINGS[model]
            part = part.sort_values("first")
            axes.errorbar((part["first"] + part["last"]) / 2, part["value"], yerr=SIGMA * part["stderr"], color=colour,
                          marker=marker, markersize=4, label=f"{model}, {text} text",
                          linestyle="-" if text == "written" else ":", **BARS)
        axes.set(title=corpus, ylim=(0, None))
    return legend_above(figure)


@rc_context(STYLE)
def lengths_figure(lengths: pd.DataFrame) -> Figure:
    """Return chunk lengths, router against teacher: one row of panels per corpus, one panel per text, clean first.

    lengths: rows with corpus, text, who ("router", "teacher"), length (bytes), value (percent), stderr. Longer chunks
    count as LONGEST; the error of that bin takes its lengths as independent.
    """
    corpora = sorted(set(lengths["corpus"]))
    texts = sorted(set(lengths["text"]), key=lambda name: (name != "clean", name))
    figure, grid = panels(len(corpora), len(texts), size=(0.8 + 1.65 * len(texts), 0.9 + 1.9 * len(corpora)),
                          sharex=True, sharey="row",
                          labels=(f"length of a chunk (bytes; {LONGEST} and more together)", ""))
    for line, corpus in zip(grid, corpora, strict=True):
        line[0].set_ylabel(f"{corpus}\nchunks (%)", fontsize=9)
        for axes, text in zip(line, texts, strict=True):
            rows = lengths[(lengths["corpus"] == corpus) & (lengths["text"] == text)]
            _lengths_panel(axes, rows, title=text)
        line[0].set_ylim(bottom=0)  # after all are drawn: it ends the scaling of the shared axis
    return legend_above(figure)


def _lengths_panel(axes: Axes, rows: pd.DataFrame, *, title: str) -> None:
    """Draw the shares of one text, and write the means of all lengths next to its curves."""
    for height, (who, part) in zip((0.9, 0.78), rows.groupby("who"), strict=False):
        colour, marker = WHO[who]
        mean = (part["length"] * part["value"]).sum() / part["value"].sum()
        axes.annotate(f"{who}: mean {mean:.2f}", (0.97, height), xycoords="axes fraction", ha="right", color=colour,
                      fontsize=8)
        binned = part.assign(length=part["length"].clip(upper=LONGEST), square=part["stderr"].fillna(0) ** 2)
        binned = binned.groupby("length")[["value", "square"]].sum().reindex(range(1, LONGEST + 1), fill_value=0)
        axes.errorbar(binned.index, binned["value"], yerr=SIGMA * binned["square"] ** 0.5, label=who, color=colour,
                      marker=marker, markersize=3, linewidth=1.1, elinewidth=0.8,
                      linestyle="--" if who == "router" else "-")
    axes.set_title(title)
    axes.set_xticks([1, *range(4, LONGEST + 1, 4)])


def _dots(axes: Axes, rows: pd.DataFrame, names: Mapping[str, str], *, key: str, missing: str = "") -> None:
    """Draw one line per name (value in the column `key` -> label), with dots of the models, or what is missing."""
    for index in [index for index, name in enumerate(names) if name not in set(rows[key])]:
        axes.text(52, index, missing, color=GREY, fontsize=8, ha="center", va="center", backgroundcolor="white")
    for offset, (model, (colour, marker)) in zip((-0.22, 0.0, 0.22), LOOKS.items(), strict=True):
        part = rows[rows["model"] == model].set_index(key).reindex(list(names))
        if part["value"].notna().any():
            heights = [index + offset for index in range(len(names))]
            axes.errorbar(part["value"], heights, xerr=SIGMA * part["stderr"].fillna(0), fmt=marker, color=colour,
                          markersize=5, linestyle="none", label=LABELS[model], **BARS)
    axes.set_yticks(range(len(names)), list(names.values()))
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 104), ylim=(len(names) - 0.5, -0.5))


def paper_rows(table01: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return model name -> tidy rows (model, task, value, stderr) of the paper's own method in its Table 1."""
    ours = table01[table01["method"] == "Ours"]
    tidy = ours.melt(["model", "role"], [name for name in BENCHMARKS if name in ours], "task", "value").dropna()
    tidy = tidy.assign(stderr=float("nan"))
    return {name: part.drop(columns="model").rename(columns={"role": "model"}) for name, part in tidy.groupby("model")}


@rc_context(STYLE)
def retention_figure(main: pd.DataFrame, *, paper: Mapping[str, pd.DataFrame]) -> Figure:
    """Return teacher, Stage 1 and Stage 2 on every task, ours first, then the paper's as `paper_rows` gives them.

    main: rows with model ("teacher", "stage1", "stage2"), task, value (percent), stderr; the paper prints no errors.
    Raises ValueError where none of the three models is there.
    """
    rows = main[main["model"].isin(LOOKS)]
    if rows.empty:
        raise ValueError(f"expected the models {', '.join(LOOKS)}, found {', '.join(sorted(set(main['model'])))}")
    parts = {f"this run, {main.attrs['provenance']['scale']}" if "provenance" in main.attrs else "this run": rows}
    parts |= {f"paper, {name}": part for name, part in paper.items()}
    tasks = list(wide(pd.concat(parts.values()).drop_duplicates(["model", "task"])))
    figure, grid = panels(1, len(parts), size=(1.0 + 2.6 * len(parts), 1.2 + 0.42 * len(tasks)), sharey=True,
                          labels=("accuracy (%)", ""))
    for axes, (title, part) in zip(grid.flat, parts.items(), strict=True):
        _dots(axes, part, dict(zip(tasks, tasks, strict=True)), key="task",
              missing="not in the paper's table" if title.startswith("paper") else "not measured")
        axes.set_title(title, fontsize=9)
    return legend_above(figure)


@rc_context(STYLE)
def robustness_figure(robustness: pd.DataFrame) -> Figure:
    """Return accuracy under each kind of noise (appendix A.1), one panel per task; the dashed line is chance.

    robustness: rows with model ("teacher", "stage1", "stage2"), task, kind, value (percent), stderr, chance. The
    average over tasks is the last panel, if there are several. Raises ValueError where a model is missing.
    """
    if missing := sorted(set(LOOKS) - set(robustness["model"])):
        raise ValueError(f"the figure compares {', '.join(LOOKS)}; missing {', '.join(missing)}")
    tasks = sorted(set(robustness["task"]), key=lambda name: (name == "average", name))
    tasks = tasks[:1] if len(tasks) == 2 else tasks  # of one task the average says nothing more
    kinds = {kind: name for kind, name in (NOISE | {"clean": "clean"}).items() if kind != "noise average"}
    figure, grid = panels(1, len(tasks), size=(1.2 + 2.3 * len(tasks), 3.6), sharey=True, labels=("accuracy (%)", ""))
    for axes, task in zip(grid.flat, tasks, strict=True):
        rows = robustness[robustness["task"] == task]
        axes.axvline(float(rows["chance"].iloc[0]), color=GREY, linestyle="--", linewidth=1, label="chance")
        _dots(axes, rows, kinds, key="kind")
        axes.axhline(0.5, color=GREY, linewidth=0.6)  # clean text above, noise below
        axes.grid(axis="y", visible=False)
        axes.set_title(task)
    return legend_above(figure)


LINEAR = 10  # points up to which the axis of the claims is linear
TICKS = (-50, -20, -10, -5, 0, 5, 10, 20, 50)
EDGE = 110  # beyond any difference of two percentages; where an interval has no end, it is drawn to here


@rc_context(STYLE)
def claims_figure(found: pd.DataFrame) -> Figure:
    """Return the claims at a glance, one row per claim: how far each measurement is on the claim's own side.

    found: what `claims.judged` returned. Right of zero is what the paper says, left of it the opposite. The unit is a
    point (of accuracy, of a score, or of a percentage), on an axis that is logarithmic beyond ten, which is shaded.
    """
    rows = found.iloc[::-1].reset_index(drop=True)
    figure, ((axes,),) = panels(1, 1, size=(11.4, 1.4 + 0.29 * len(rows)), labels=("", ""))
    axes.set_xscale("symlog", linthresh=LINEAR)
    for side in (-1, 1):
        axes.axvspan(side * LINEAR, side * EDGE, color="#f0f0f0", linewidth=0, zorder=0)
    axes.axvline(0, color="#000000", linewidth=1)
    for height, claim in enumerate(rows.itertuples()):
        if claim.verdict == UNMEASURED:
            axes.annotate(f"{UNMEASURED} (notebook {claim.notebook[:2]})", (0, height), xytext=(6, 0), color=GREY,
                          textcoords="offset points", va="center", fontsize=7)
            continue
        colour, marker = VERDICT_LOOKS[claim.verdict]
        sign = -1 if claim.direction == "below" else 1  # the claim's side is on the right
        ends = sorted(min(max(sign * (end - claim.threshold), -EDGE), EDGE) for end in (claim.low, claim.high))
        axes.plot(ends, (height, height), color=colour, linewidth=1.8, solid_capstyle="butt")
        axes.plot(sign * (claim.value - claim.threshold), height, color=colour, marker=marker, markersize=6)
    places = rows["where"].str.replace(" ", "\N{NO-BREAK SPACE}")
    said = [fill(f"{claim} [{place}]", 90) for claim, place in zip(rows["claim"], places, strict=True)]
    axes.set_yticks(range(len(rows)), said, fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(-EDGE, EDGE), ylim=(-0.7, len(rows) - 0.3))
    axes.set_xticks(TICKS, [f"{tick:+d}" if tick else "0" for tick in TICKS])
    axes.minorticks_off()
    axes.set_xlabel("← opposite      points beyond what is claimed, 95 % interval      as the paper says →\n"
                    f"(linear to {LINEAR} points, logarithmic beyond: shaded)")
    looks = VERDICT_LOOKS | {UNMEASURED: (None, "")}
    handles = [Line2D([], [], color=colour, marker=marker, linestyle="none",
                      label=f"{verdict}: {(found['verdict'] == verdict).sum()}")
               for verdict, (colour, marker) in looks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure
