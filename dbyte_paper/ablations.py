"""Ablations: a table with one row per variant, accuracies with errors next to the teacher's, curves against bytes.

All from results alone, in the style of figures.py; variants keep the order in which they were defined.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dbyte_paper.figures import BARS, GREY, MB, STYLE, legend_above, panels
from dbyte_paper.tables import SIGMA, estimates, in_points, wide

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7a7a7a", "#5e4fa2", "#8c564b")
MARKERS = "osD^vPX*hd"


def table(rows: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Return `value ± stderr` per task, one row per variant, in the order given; the average is the last column."""
    tasks = sorted(wide(rows), key="average".__eq__)
    cells = estimates(rows, rows=["model"], columns="task", order=tasks).set_index("model")
    return cells.loc[list(order)].rename_axis("variant").reset_index()


def differences(rows: pd.DataFrame, task: str = "average") -> pd.DataFrame:
    """Return the differences of one task as text: in points, interval, n, seeds, verdict on "the first is ahead"."""
    return in_points(rows[rows["task"] == task], {"what": "difference", "points": "points", "interval": "95 % interval",
                                                  "n": "n", "seeds": "seeds", "verdict": "first ahead"})


def _task_panels(rows: pd.DataFrame, *, size: tuple[float, float], label: str, **shared) -> tuple:
    """Return a figure and its axes by task, an average last; `size` leaves out the width of its panels."""
    tasks = sorted(wide(rows.drop_duplicates(["model", "task"])), key="average".__eq__)
    columns = min(len(tasks), 5)
    lines = -(-len(tasks) // columns)
    width, height = size
    figure, grid = panels(lines, columns, size=(width + 1.9 * columns, height * lines), labels=(label, ""), **shared)
    for axes in grid.flat[len(tasks):]:
        axes.remove()
    return figure, dict(zip(tasks, grid.flat, strict=False))


@rc_context(STYLE)
def accuracy_figure(rows: pd.DataFrame, order: Sequence[str], *, teacher: pd.DataFrame) -> Figure:
    """Return one panel per task, one bar per variant: accuracy, two standard errors, teacher (line), chance (dots).

    rows: variant as model, task, value, stderr, chance. teacher: rows of one teacher, or of one by each variant's name.
    """
    levels = wide(teacher).assign(average=lambda tasks: tasks.mean(axis="columns"))
    own = levels.reindex(order) if len(levels) > 1 else pd.concat([levels] * len(order))
    places = range(len(order))
    figure, grid = _task_panels(rows, size=(2.2, 1.0 + 0.28 * len(order)), sharey=True,
                                label="accuracy (%), two standard errors; line: the bar's teacher, dots: chance")
    for task, axes in grid.items():
        part = rows[rows["task"] == task].set_index("model").reindex(order)
        axes.barh(places, part["value"], xerr=SIGMA * part["stderr"].fillna(0), height=0.6, color=COLOURS[0],
                  alpha=0.55, error_kw=BARS)
        if task in own:
            axes.vlines(own[task], [place - 0.5 for place in places], [place + 0.5 for place in places],
                        color="#000000", linewidth=1.4)
        axes.axvline(part["chance"].iloc[0], color=GREY, linestyle=":", linewidth=1)
        axes.set(title=task, xlim=(0, 104), ylim=(len(order) - 0.4, -0.6))
        axes.set_yticks(places, order)
        axes.tick_params(axis="y", length=0)
    return figure


def since_the_first_byte(curves: pd.DataFrame, dynamics: pd.DataFrame) -> pd.DataFrame:
    """Return the curves of last steps, `train_bytes` counted from the first step on, as `dynamics` counts them."""
    end, own_end = (frame.groupby("model")["train_bytes"].max() for frame in (dynamics, curves))
    return curves.assign(train_bytes=curves["train_bytes"] + curves["model"].map(end - own_end))


@rc_context(STYLE)
def loss_figure(curves: pd.DataFrame, order: Sequence[str], *, label: str) -> Figure:
    """Return the training loss, on a logarithmic axis, against megabytes, one line per variant.

    curves: variant as model, train_bytes, value, stderr. Bands are two standard errors over seeds.
    """
    figure, ((axes,),) = panels(1, 1, size=(6.4, 4.0), labels=("", ""))
    for name, colour, marker in zip(order, COLOURS, MARKERS, strict=False):
        part = curves[curves["model"] == name].sort_values("train_bytes")
        x = part["train_bytes"] / MB
        y = part["value"]
        band = SIGMA * part["stderr"].fillna(0)
        axes.plot(x, y, color=colour, marker=marker, markersize=4, label=name)
        axes.fill_between(x, (y - band).clip(lower=y / 2), y + band, color=colour, alpha=0.15, linewidth=0)
    axes.set(yscale="log", xlabel="training bytes (MB)", ylabel=label)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


@rc_context(STYLE)
def curves_figure(rows: pd.DataFrame, order: Sequence[str], *, teacher: pd.DataFrame) -> Figure:
    """Return one panel per task: accuracy against megabytes, one line per variant; teacher (line), chance (dots).

    With the steps of Stage 1 as variants it is Figure 2.

    rows: variant as model, task, train_bytes, value, stderr, chance. teacher: task and value.
    """
    level = teacher.set_index("task")["value"]
    figure, grid = _task_panels(rows, size=(1.4, 2.9), sharey=True, sharex=True,
                                label="training bytes (MB); line: teacher, dots: chance, bars: two standard errors")
    for task, axes in grid.items():
        of_task = rows[rows["task"] == task]
        for name, colour, marker in zip(order, COLOURS, MARKERS, strict=False):
            part = of_task[of_task["model"] == name].sort_values("train_bytes")
            axes.errorbar(part["train_bytes"] / MB, part["value"], yerr=SIGMA * part["stderr"].fillna(0),
                          color=colour, marker=marker, markersize=4, label=name, **BARS)
        if task in level:
            axes.axhline(level[task], color="#000000", linewidth=1)
        axes.axhline(of_task["chance"].iloc[0], color=GREY, linestyle=":", linewidth=1)
        axes.set(title=task, ylim=(0, 104), xlim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(3))
    figure.axes[0].set_ylabel("accuracy (%)")
    return legend_above(figure)
