"""ARC-E, after ARC Easy: one-hop facts with four answers of one kind.

Example: "Question: Where does Mona live?\nAnswer:" with the choices " Oslo", " Lima", " Rome", " Cairo". Training text
states the fact in prose, but asks for it in no form. One item a fact, so that items are independent.
"""

from random import Random

from dbyte.evaluate.minibench.column import Column
from dbyte.text.world import WORLD, fact_question


def _draw(rng: Random, n: int) -> list[dict]:
    rows = []
    for name, attribute in rng.sample(WORLD.questions[True], len(WORLD.questions[True]))[:n]:
        value = WORLD.facts[name, attribute.name]
        choices = [value, *rng.sample([v for v in attribute.values if v != value], 3)]
        rng.shuffle(choices)
        question = fact_question(rng, name, attribute)
        rows.append({"question": question, "choices": choices, "label": choices.index(value)})
    return rows


COLUMN = Column(
    name="ARC-E", metric="acc", chance=0.25, default=len(WORLD.questions[True]), available=len(WORLD.questions[True]),
    draw=_draw,
    harness={
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
    },
)
