"""Ablations: a table with a row a variant, accuracies with errors next to the teacher's, loss curves.

All from results alone, in the style of figures.py; variants keep the order in which they were defined.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dbyte.report.figures import GREY, MB, SIGMA, STYLE
from dbyte.report.tables import wide, with_error

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7a7a7a", "#5e4fa2", "#8c564b")
MARKERS = "osD^vPX*hd"


def table(rows: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Return `value ± stderr` a task, a row a variant, in the order given; the average of the columns stands last."""
    value = wide(rows)
    stderr = wide(rows, values="stderr")
    tasks = sorted(value, key="average".__eq__)
    return pd.DataFrame([{"variant": name} | {task: with_error(value.at[name, task], stderr.at[name, task])
                                              for task in tasks} for name in order])


def differences(rows: pd.DataFrame, task: str = "average") -> pd.DataFrame:
    """Return the differences of one task as text: in points, interval, n, seeds, verdict on "the first is ahead"."""
    return pd.DataFrame([{
        "difference": row.what, "points": f"{row.value:+.1f}", "95 % interval": f"{row.low:+.1f} to {row.high:+.1f}",
        "n": row.n, "seeds": row.seeds, "first ahead": row.verdict} for row in rows[rows["task"] == task].itertuples()])


def accuracy_figure(rows: pd.DataFrame, order: Sequence[str], *, teacher: pd.DataFrame) -> Figure:
    """Return a panel a task, a bar a variant: accuracy, two standard errors, the teacher as a line, chance dotted.

    rows: variant as model, task, value, stderr, chance. teacher: task and value.
    """
    tasks = [task for task in wide(rows) if task != "average"] + ["average"]
    level = teacher.set_index("task")["value"]
    with rc_context(STYLE):
        figure = Figure(figsize=(2.2 + 1.9 * len(tasks), 1.0 + 0.28 * len(order)), layout="constrained")
        for axes, task in zip(figure.subplots(1, len(tasks), sharey=True, squeeze=False).flat, tasks, strict=True):
            part = rows[rows["task"] == task].set_index("model").reindex(order)
            places = range(len(order))
            axes.barh(places, part["value"], xerr=SIGMA * part["stderr"].fillna(0), height=0.6, color=COLOURS[0],
                      alpha=0.55, error_kw={"elinewidth": 1, "capsize": 2})
            if task in level:
                axes.axvline(level[task], color="#000000", linewidth=1)
            axes.axvline(part["chance"].iloc[0], color=GREY, linestyle=":", linewidth=1)
            axes.set_title(task)
            axes.set_xlim(0, 104)
            axes.set_yticks(places, order)
            axes.set_ylim(len(order) - 0.4, -0.6)
            axes.tick_params(axis="y", length=0)
        figure.supxlabel("accuracy (%), two standard errors; line: teacher, dots: chance", fontsize=9)
    return figure


def loss_figure(curves: pd.DataFrame, order: Sequence[str], *, label: str) -> Figure:
    """Return the training loss, on a logarithmic axis, against megabytes, a line a variant.

    curves: variant as model, train_bytes, value, stderr. Bands are two standard errors over seeds.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        for name, colour, marker in zip(order, COLOURS, MARKERS, strict=False):
            part = curves[curves["model"] == name].sort_values("train_bytes")
            x = part["train_bytes"] / MB
            y = part["value"]
            band = SIGMA * part["stderr"].fillna(0)
            axes.plot(x, y, color=colour, marker=marker, markersize=4, label=name)
            axes.fill_between(x, (y - band).clip(lower=y / 2), y + band, color=colour, alpha=0.15, linewidth=0)
        axes.set_yscale("log")
        axes.set_xlabel("training bytes (MB)")
        axes.set_ylabel(label)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def curves_figure(rows: pd.DataFrame, order: Sequence[str], *, teacher: pd.DataFrame) -> Figure:
    """Return a panel a task: accuracy against megabytes, a line a variant; the teacher as a line, chance dotted.

    rows: variant as model, task, train_bytes, value, stderr, chance. teacher: task and value.
    """
    tasks = [task for task in wide(rows.drop_duplicates(["model", "task"])) if task != "average"] + ["average"]
    level = teacher.set_index("task")["value"]
    with rc_context(STYLE):
        figure = Figure(figsize=(1.4 + 1.9 * len(tasks), 2.9), layout="constrained")
        panels = figure.subplots(1, len(tasks), sharey=True, sharex=True, squeeze=False)[0]
        for axes, task in zip(panels, tasks, strict=True):
            for name, colour, marker in zip(order, COLOURS, MARKERS, strict=False):
                part = rows[(rows["task"] == task) & (rows["model"] == name)].sort_values("train_bytes")
                axes.errorbar(part["train_bytes"] / MB, part["value"], yerr=SIGMA * part["stderr"].fillna(0),
                              color=colour, marker=marker, markersize=4, elinewidth=1, capsize=2, label=name)
            if task in level:
                axes.axhline(level[task], color="#000000", linewidth=1)
            axes.axhline(rows.loc[rows["task"] == task, "chance"].iloc[0], color=GREY, linestyle=":", linewidth=1)
            axes.set_title(task)
            axes.set_ylim(0, 104)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(3))
        panels[0].set_ylabel("accuracy (%)")
        figure.supxlabel("training bytes (MB); line: teacher, dots: chance, bars: two standard errors", fontsize=9)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(order),
                      frameon=False)
    return figure
