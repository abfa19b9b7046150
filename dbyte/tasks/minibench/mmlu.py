r"""MMLU, after MMLU: the answer is the letter of one of four options.

Example: "Anna put the key in Bonn. Tom put the ring in Riga.\nChoices: Lyon A, Hull B, Bonn C, Riga D\nQuestion: Where
did Anna put the key?\nAnswer:" -> " C". Three subjects: `lists` asks for the letter of an option, `stories` can be
read off, `people` asks for the facts of the world, which training text states but asks for in no form, with letters or
without. Training text never asks for an option that stands behind this other one, and never tells that this person put
this thing there.
"""

from random import Random

from dbyte.tasks.column import Column
from dbyte.tasks.world.basic import WORLD
from dbyte.tasks.world.letters import LETTERS, SUBJECTS, asked, fact, listed, story


def _draw(rng: Random, n: int) -> list[dict]:
    rows: dict[str, dict] = {}
    while len(rows) < n:
        subject = rng.choice(SUBJECTS)
        if subject == "stories":
            passage, asks = story(rng, held_out=True)
            question, choices, label = asks[0]
            row = {"subject": "stories", "prompt": f"{passage}\n{asked(question, choices)}", "label": label}
        elif subject == "lists":
            question, choices, label = listed(rng, held_out=True)
            row = {"subject": "lists", "prompt": asked(question, choices), "label": label}
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
