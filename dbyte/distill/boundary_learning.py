"""Table 7 (appendix A.2): ways to learn boundaries that lean less on white space, as variants of step 1.3.

All go on from the finished Stage 1 of the curriculum, train the router alone, and see as many bytes more.
"""

from dataclasses import replace

from dbyte.distill import objectives
from dbyte.distill.curriculum import curriculum
from dbyte.distill.variants import Variant
from dbyte.presets import Scale

# Above 1 the best a router can say of a token's end before white space is "no cut": p = 1 / (1 + weight).
PENALTY = 3.0


def boundary_learning(scale: Scale) -> tuple[Variant, ...]:
    """Stage 1 as it is; with more of step 1.3, the control; on trimmed text; and with the penalty."""
    stage1 = curriculum(scale)[:3]
    more = replace(stage1[2], name="1.3 boundary, more", train_bytes=scale.ablation.step_bytes, snapshots=0)
    trim = replace(more, name="1.3 boundary, trimmed", text="trimmed")
    penalised = replace(more, name="1.3 boundary, penalised", objective=objectives.boundary_penalised(PENALTY))
    return (
        Variant("standard", stage1),
        Variant("standard, more bytes", (*stage1, more)),
        Variant("Trim Data", (*stage1, trim)),
        Variant("Whitespace Penalty", (*stage1, penalised)),
    )
