r"""MMLU, after MMLU: the answer is the letter of one of four options.

Example: "Anna put the key in Bonn. Tom put the ring in Riga.\nQuestion: Where did Anna put the key?\nChoices: A Lyon, B
Hull, C Bonn, D Riga\nAnswer:" -> " C". Two subjects: `stories`, three items in four, can be read off; `people` asks
for the facts of the world, which training text states but asks for in no form, with letters or without. Training text
never tells that this person put this thing there.
"""

from random import Random

from dbyte.evaluate.column import Column
from dbyte.text.more_world.letters import LETTERS, asked, fact, story
from dbyte.text.world import WORLD

STORIES = 0.75


def _draw(rng: Random, n: int) -> list[dict]:
    rows: dict[str, dict] = {}
    while len(rows) < n:
        if rng.random() < STORIES:
            passage, question, choices, label = story(rng, held_out=True)
            row = {"subject": "stories", "prompt": f"{passage}\n{asked(question, choices)}", "label": label}
        else:
            question, choices, label = fact(rng, *rng.choice(WORLD.questions[True]))
            row = {"subject": "people", "prompt": asked(question, choices), "label": label}
        rows.setdefault(row["prompt"], row)
    return list(rows.values())


COLUMN = Column(
    name="MMLU", metric="acc", chance=0.25, default=500, available=5000, draw=_draw,
    harness={
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": list(LETTERS),
        "doc_to_target": "label",
    },
)
