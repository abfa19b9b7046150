"""PIQA, after PIQA: which of two tools serves a goal.

Example: "Question: How do you cut the bread?\nAnswer:" with " Use the knife." and " Use the kettle.". Training text
states the use in prose, but never asks for this goal. One item a goal.
"""

from random import Random

from dbyte.tasks.column import Column
from dbyte.tasks.world.basic import TOOLS, WORLD, use_answer, use_question


def _draw(rng: Random, n: int) -> list[dict]:
    rows = []
    for goal, tool in rng.sample(WORLD.goals[True], len(WORLD.goals[True]))[:n]:
        other = rng.choice([t for t in TOOLS if t != tool])
        label = rng.randrange(2)
        solutions = [use_answer(other), use_answer(other)]
        solutions[label] = use_answer(tool)
        rows.append({"goal": use_question(goal), "sol1": solutions[0], "sol2": solutions[1], "label": label})
    return rows


COLUMN = Column(
    name="PIQA", metric="acc", chance=0.5, default=len(WORLD.goals[True]), available=len(WORLD.goals[True]), draw=_draw,
    harness={
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{goal}}\nAnswer:",
        "doc_to_choice": "{{[sol1, sol2]}}",
        "doc_to_target": "label",
    },
)
