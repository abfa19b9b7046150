"""ARC-E, after ARC Easy: one-hop facts with four answers of one kind.

Example: "Question: Where does Mona live?\nAnswer:" with the choices " Oslo", " Lima", " Rome", " Cairo". Training text
states the fact in prose, but asks for it in no form. One item for each way to ask for a fact.
"""

from random import Random

from dbyte.tasks.column import Column
from dbyte.tasks.world.basic import WORLD

FORMS = [(name, attribute, form) for name, attribute in WORLD.questions[True] for form in attribute.questions]


def _draw(rng: Random, n: int) -> list[dict]:
    rows = []
    for name, attribute, form in rng.sample(FORMS, len(FORMS))[:n]:
        value = WORLD.facts[name, attribute.name]
        choices = [value, *rng.sample([v for v in attribute.values if v != value], 3)]
        rng.shuffle(choices)
        rows.append({"question": form.format(n=name), "choices": choices, "label": choices.index(value)})
    return rows


COLUMN = Column(
    name="ARC-E", metric="acc", chance=0.25, default=len(FORMS), available=len(FORMS), draw=_draw,
    harness={
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
    },
)
