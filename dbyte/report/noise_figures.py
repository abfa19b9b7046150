"""The figure of appendix A: accuracy under each perturbation, a panel a task, the three models side by side."""

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dbyte.report.figures import GREY, LABELS, LOOKS, SIGMA, STYLE

NAMES = {"clean": "clean", "antspeak": "AntSpeak", "drop": "Drop", "random_case": "RandomCase", "repeat": "Repeat",
         "uppercase": "Uppercase"}
OFFSETS = (-0.22, 0.0, 0.22)


def _panel(axes: Axes, rows: pd.DataFrame, *, task: str) -> None:
    chance = float(rows["chance"].iloc[0])
    axes.axvline(chance, color=GREY, linestyle="--", linewidth=1, label="chance")
    for offset, (model, (colour, marker)) in zip(OFFSETS, LOOKS.items(), strict=True):
        part = rows[rows["model"] == model].set_index("kind").reindex(list(NAMES))
        heights = [index + offset for index in range(len(NAMES))]
        axes.errorbar(part["value"], heights, xerr=SIGMA * part["stderr"], fmt=marker, color=colour, markersize=5,
                      elinewidth=1, capsize=2, linestyle="none", label=LABELS[model])
    axes.axhline(0.5, color=GREY, linewidth=0.6)  # clean text above, noise below
    axes.set_yticks(range(len(NAMES)), list(NAMES.values()))
    axes.set_ylim(len(NAMES) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 104)
    axes.set_title(task)


def robustness_figure(robustness: pd.DataFrame) -> Figure:
    """Return accuracy by perturbation with two standard errors, a panel a task; the dashed line is chance.

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
            _panel(axes, robustness[robustness["task"] == task], task=task)
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
        figure.supxlabel("accuracy (%)", fontsize=9)
    return figure
