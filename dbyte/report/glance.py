"""The claims at a glance: a line a claim, how far on its own side of what it claims each measurement lies.

The axis turns every claim the same way: right of zero is what the paper says, left of it the opposite. Its unit is a
point (of accuracy, of a score, or of a percentage), logarithmic beyond ten.
"""

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from dbyte.report.figures import GREY, STYLE
from dbyte.report.judging import UNMEASURED

# Each with a marker of its own: colour is never the only sign.
LOOKS = {"shown": ("#0072b2", "o"), "not shown": ("#e69f00", "s"), "opposite": ("#d55e00", "X")}
LINEAR = 10  # points up to which the axis is linear
TICKS = (-50, -20, -10, -5, 0, 5, 10, 20, 50)
EDGE = 110  # no difference of two percentages lies beyond; an interval without an end goes to the edge


def glance_figure(found: pd.DataFrame) -> Figure:
    """Return the figure of what `claims.judged` returned: measured claims with their intervals, the others named."""
    rows = found.iloc[::-1].reset_index(drop=True)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.6, 1.2 + 0.2 * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("symlog", linthresh=LINEAR)
        axes.axvline(0, color="#000000", linewidth=1)
        for height, claim in enumerate(rows.itertuples()):
            if claim.verdict == UNMEASURED:
                axes.annotate(f"{UNMEASURED} (notebook {claim.notebook[:2]})", (0, height), xytext=(6, 0), color=GREY,
                              textcoords="offset points", va="center", fontsize=7)
            else:
                _draw(axes, claim, height)
        axes.set_yticks(range(len(rows)), [f"{claim.id}   {claim.where.split(';')[0]}" for claim in rows.itertuples()],
                        fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_xlim(-EDGE, EDGE)
        axes.xaxis.set_major_locator(FixedLocator(TICKS))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{tick:+d}" if tick else "0" for tick in TICKS])
        axes.set_xlabel("← opposite      points beyond what is claimed, 95 % interval      as the paper says →")
        handles = [Line2D([], [], color=colour, marker=marker, linestyle="none", label=_counted(found, verdict))
                   for verdict, (colour, marker) in LOOKS.items()]
        handles.append(Line2D([], [], linestyle="none", label=_counted(found, UNMEASURED)))
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def _draw(axes, claim, height: int) -> None:
    """One interval, turned so that the claim's side is on the right."""
    colour, marker = LOOKS[claim.verdict]
    sign = -1 if claim.direction == "below" else 1
    ends = sorted(min(max(sign * (end - claim.threshold), -EDGE), EDGE) for end in (claim.low, claim.high))
    axes.plot(ends, (height, height), color=colour, linewidth=1.8, solid_capstyle="butt")
    axes.plot(sign * (claim.value - claim.threshold), height, color=colour, marker=marker, markersize=6)


def _counted(found: pd.DataFrame, verdict: str) -> str:
    return f"{verdict}: {(found['verdict'] == verdict).sum()}"
