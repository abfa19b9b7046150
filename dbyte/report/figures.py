"""The figures of measurements, drawn from results alone.

One style for all: colours of Okabe and Ito, which colour-blind readers can tell apart, a marker shape for every colour,
labels on the lines, units on the axes. `save` writes the same bytes for the same results, and next to the PNG a .json
that names every file whose numbers it shows. Bars and bands are two standard errors.
"""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dbyte.atomic import atomic_write
from dbyte.paths import FIGURES
from dbyte.report.tables import BENCHMARKS, NOISE

STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e6e6e6", "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.linewidth": 1.6,
    "figure.facecolor": "white", "savefig.facecolor": "white", "figure.dpi": 100, "savefig.dpi": 150,
    "svg.hashsalt": "dbyte",
}
GREY = "#7a7a7a"
# Each with a marker of its own: colour is never the only sign.
LOOKS = {"teacher": ("#000000", "D"), "stage1": ("#0072b2", "o"), "stage2": ("#d55e00", "s")}
LABELS = {"teacher": "teacher", "stage1": "Stage 1", "stage2": "Stage 2"}
DECODINGS = {"JBP": ("#d55e00", "s"), "MBP": ("#cc79a7", "^")}
WHO = {"teacher": ("#000000", "D"), "router": ("#d55e00", "o")}
STEP_COLOURS = {"1.1": "#009e73", "1.2": "#0072b2"}
SIGMA = 2.0  # half-width of an error band or bar, in standard errors
MB = 1e6


def _tasks(frame: pd.DataFrame) -> list[str]:
    """Return the task names, the paper's columns first and in its order."""
    present = set(frame["task"])
    return [name for name in BENCHMARKS if name in present] + sorted(present - set(BENCHMARKS))


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
        raise ValueError(f"figure {name!r} mixes the scales {scales}: draw one figure a scale")
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


def _legend(figure: Figure) -> None:
    """Draw one legend for all panels, above them, with the names of the first."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)


def _dynamics_panel(axes: Axes, rows: pd.DataFrame, *, task: str, label_steps: bool) -> None:
    teacher = rows[rows["model"] == "teacher"]
    student = rows[rows["model"] != "teacher"]
    level = float(teacher["value"].iloc[0])
    axes.axhline(level, color=LOOKS["teacher"][0], linewidth=0.9)
    axes.annotate("teacher", (0, level), xycoords=("axes fraction", "data"), xytext=(4, 3), fontsize=8,
                  textcoords="offset points")
    ends = {}
    before = student.iloc[:0]
    for step, part in student.sort_values("train_bytes").groupby("step"):
        part = pd.concat([before, part])  # a step continues from the last model of the one before
        before = part.iloc[-1:]
        x = part["train_bytes"] / MB
        y = part["value"]
        band = SIGMA * part["stderr"].fillna(0)
        axes.fill_between(x, y - band, y + band, color=STEP_COLOURS[step], alpha=0.18, linewidth=0)
        axes.plot(x, y, color=STEP_COLOURS[step], marker="o", markersize=3)
        ends[step] = float(x.max())
    if {"1.1", "1.2"} <= ends.keys():
        axes.axvline(ends["1.1"], color=GREY, linestyle="--", linewidth=1)
    if label_steps:
        starts = {"1.1": 0.0, "1.2": ends.get("1.1", 0.0)}
        for step, end in ends.items():
            axes.annotate(f"Step {step}", ((starts[step] + end) / 2, 0.03), xycoords=("data", "axes fraction"),
                          ha="center", color=STEP_COLOURS[step], fontsize=9, fontweight="bold")
    axes.set_title(task)
    axes.set_ylim(0, 109)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def dynamics_figure(dynamics: pd.DataFrame) -> Figure:
    """Return Figure 2: accuracy against training bytes through steps 1.1 and 1.2, a panel a task, the teacher a line.

    dynamics: rows with model ("teacher" or "student"), step ("1.1", "1.2"; anything for the teacher), train_bytes (from
    the start of Stage 1), task, value (percent), stderr, n. Raises ValueError where a task has no teacher row or a step
    is unknown.
    """
    student = dynamics[dynamics["model"] != "teacher"]
    if unknown := sorted(set(student["step"]) - set(STEP_COLOURS)):
        raise ValueError(f"Figure 2 shows the steps {', '.join(STEP_COLOURS)}, found {', '.join(unknown)}")
    tasks = _tasks(dynamics)
    if lost := sorted(set(tasks) - set(dynamics[dynamics["model"] == "teacher"]["task"])):
        raise ValueError(f"Figure 2 needs the teacher's accuracy for {', '.join(lost)}")
    columns = min(4, len(tasks))
    lines = -(-len(tasks) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 2.6 * columns, 0.5 + 2.4 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for index, panel in enumerate(panels.flat):
            if index >= len(tasks):
                panel.remove()
                continue
            rows = dynamics[dynamics["task"] == tasks[index]]
            _dynamics_panel(panel, rows, task=tasks[index], label_steps=index == 0)
            panel.xaxis.set_tick_params(labelbottom=index + columns >= len(tasks))
        figure.supxlabel("training bytes of Stage 1 (MB)", fontsize=9)
        figure.supylabel("accuracy (%)", fontsize=9)
    return figure


def exposure_figure(exposure: pd.DataFrame) -> Figure:
    """Return how often decoded boundaries are not the router's against the distance from the prompt, a panel a corpus.

    exposure: rows with model ("JBP", "MBP"), corpus, text ("given", "written"), first, last, value (percent), stderr.
    """
    corpora = sorted(set(exposure["corpus"]))
    with rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 3.4 * len(corpora), 3.0), layout="constrained")
        panels = figure.subplots(1, len(corpora), squeeze=False, sharey=True)
        for axes, corpus in zip(panels.flat, corpora, strict=True):
            for (model, text), part in exposure[exposure["corpus"] == corpus].groupby(["model", "text"]):
                colour, marker = DECODINGS[model]
                part = part.sort_values("first")
                axes.errorbar((part["first"] + part["last"]) / 2, part["value"], yerr=SIGMA * part["stderr"],
                              color=colour, marker=marker, markersize=4, elinewidth=1, capsize=2,
                              label=f"{model}, {text}", linestyle="-" if text == "written" else ":")
            axes.set_title(corpus)
            axes.set_ylim(bottom=0)
        _legend(figure)
        figure.supxlabel("bytes after the prompt", fontsize=9)
        figure.supylabel("boundaries that are not the router's (%)", fontsize=9)
    return figure


def lengths_figure(lengths: pd.DataFrame, *, longest: int = 12) -> Figure:
    """Return how long chunks are, a row of panels a corpus and a panel a text, clean first; router against teacher.

    lengths: rows with corpus, text, who ("router", "teacher"), length (bytes), value (percent), stderr. Longer chunks
    count as `longest`; the error of that bin takes its lengths as independent.
    """
    corpora = sorted(set(lengths["corpus"]))
    texts = sorted(set(lengths["text"]), key=lambda name: (name != "clean", name))
    with rc_context(STYLE):
        figure = Figure(figsize=(0.8 + 1.65 * len(texts), 0.9 + 1.9 * len(corpora)), layout="constrained")
        panels = figure.subplots(len(corpora), len(texts), squeeze=False, sharex=True, sharey="row")
        for line, corpus in zip(panels, corpora, strict=True):
            line[0].set_ylabel(f"{corpus}\nchunks (%)", fontsize=9)
            for axes, text in zip(line, texts, strict=True):
                rows = lengths[(lengths["corpus"] == corpus) & (lengths["text"] == text)]
                _lengths_panel(axes, rows, title=text, longest=longest)
            line[0].set_ylim(bottom=0)  # after all are drawn: it ends the scaling of the shared axis
        _legend(figure)
        figure.supxlabel(f"length of a chunk (bytes; {longest} and more together)", fontsize=9)
    return figure


def _lengths_panel(axes: Axes, rows: pd.DataFrame, *, title: str, longest: int) -> None:
    """Draw the shares of one text, and write the means of all lengths next to its curves."""
    for height, (who, part) in zip((0.9, 0.78), rows.groupby("who"), strict=False):
        colour, marker = WHO[who]
        mean = (part["length"] * part["value"]).sum() / part["value"].sum()
        axes.annotate(f"{who}: mean {mean:.2f}", (0.97, height), xycoords="axes fraction", ha="right", color=colour,
                      fontsize=8)
        binned = part.assign(length=part["length"].clip(upper=longest), square=part["stderr"].fillna(0) ** 2)
        binned = binned.groupby("length")[["value", "square"]].sum().reindex(range(1, longest + 1), fill_value=0)
        axes.errorbar(binned.index, binned["value"], yerr=SIGMA * binned["square"] ** 0.5, label=who, color=colour,
                      marker=marker, markersize=3, linewidth=1.1, elinewidth=0.8,
                      linestyle="--" if who == "router" else "-")
    axes.set_title(title)
    axes.set_xticks([1, *range(4, longest + 1, 4)])


def _retention_panel(axes: Axes, rows: pd.DataFrame, *, tasks: Sequence[str], title: str) -> None:
    """Draw a line a task and a dot a model on it; rows: model, task, value, stderr."""
    for offset, (model, (colour, marker)) in zip((-0.22, 0.0, 0.22), LOOKS.items(), strict=True):
        part = rows[rows["model"] == model].set_index("task").reindex(tasks)
        if part["value"].isna().all():
            continue
        heights = [index + offset for index in range(len(tasks))]
        axes.errorbar(part["value"], heights, xerr=SIGMA * part["stderr"].fillna(0), fmt=marker, color=colour,
                      markersize=5, elinewidth=1, capsize=2, linestyle="none", label=LABELS[model])
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 104)
    axes.set_title(title, fontsize=9)


def paper_rows(table01: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return model name -> tidy rows (model, task, value, stderr) of the paper's own method in its Table 1."""
    ours = table01[table01["method"] == "Ours"]
    tidy = ours.melt(["model", "role"], [name for name in BENCHMARKS if name in ours], "task", "value").dropna()
    tidy = tidy.assign(stderr=float("nan"))
    return {name: part.drop(columns="model").rename(columns={"role": "model"}) for name, part in tidy.groupby("model")}


def retention_figure(main: pd.DataFrame, *, paper: Mapping[str, pd.DataFrame]) -> Figure:
    """Return teacher, Stage 1 and Stage 2 on every task, ours first, then the paper's as `paper_rows` gives them.

    main: rows with model ("teacher", "stage1", "stage2"), task, value (percent), stderr; the paper prints no errors.
    Raises ValueError where none of the three models is there.
    """
    rows = main[main["model"].isin(LOOKS)]
    if rows.empty:
        raise ValueError(f"expected the models {', '.join(LOOKS)}, found {', '.join(sorted(set(main['model'])))}")
    panels = {f"this run, {main.attrs['provenance']['scale']}" if "provenance" in main.attrs else "this run": rows}
    panels |= {f"paper, {name}": part for name, part in paper.items()}
    tasks = _tasks(pd.concat(panels.values()))
    with rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 2.6 * len(panels), 1.2 + 0.42 * len(tasks)), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)
        for axes, (title, part) in zip(grid.flat, panels.items(), strict=True):
            _retention_panel(axes, part, tasks=tasks, title=title)
        _legend(figure)
        figure.supxlabel("accuracy (%)", fontsize=9)
    return figure


def _noise_panel(axes: Axes, rows: pd.DataFrame, *, task: str) -> None:
    kinds = [kind for kind in NOISE if kind != "noise average"]
    names = ["clean" if kind == "clean" else NOISE[kind] for kind in kinds]
    axes.axvline(float(rows["chance"].iloc[0]), color=GREY, linestyle="--", linewidth=1, label="chance")
    for offset, (model, (colour, marker)) in zip((-0.22, 0.0, 0.22), LOOKS.items(), strict=True):
        part = rows[rows["model"] == model].set_index("kind").reindex(kinds)
        heights = [index + offset for index in range(len(kinds))]
        axes.errorbar(part["value"], heights, xerr=SIGMA * part["stderr"], fmt=marker, color=colour, markersize=5,
                      elinewidth=1, capsize=2, linestyle="none", label=LABELS[model])
    axes.axhline(0.5, color=GREY, linewidth=0.6)  # clean text above, noise below
    axes.set_yticks(range(len(kinds)), names)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 104)
    axes.set_title(task)


def robustness_figure(robustness: pd.DataFrame) -> Figure:
    """Return accuracy under each kind of noise (appendix A.1), a panel a task; the dashed line is chance.

    robustness: rows with model ("teacher", "stage1", "stage2"), task, kind, value (percent), stderr, chance. The
    average over tasks, if there is one, is the last panel. Raises ValueError where a model is missing.
    """
    if missing := sorted(set(LOOKS) - set(robustness["model"])):
        raise ValueError(f"the figure compares {', '.join(LOOKS)}; missing {', '.join(missing)}")
    tasks = sorted(set(robustness["task"]), key=lambda name: (name == "average", name))
    with rc_context(STYLE):
        figure = Figure(figsize=(1.2 + 2.3 * len(tasks), 3.6), layout="constrained")
        panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)
        for axes, task in zip(panels.flat, tasks, strict=True):
            _noise_panel(axes, robustness[robustness["task"] == task], task=task)
        _legend(figure)
        figure.supxlabel("accuracy (%)", fontsize=9)
    return figure
