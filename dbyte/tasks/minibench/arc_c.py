r"""ARC-C, after ARC Challenge: questions whose answer takes two sentences, four towns to choose from.

Example: "The key is in the box. The bag is in Riga. The box is in Bonn. The ring is in the bag.\nQuestion: Where is the
key?\nAnswer:" with " Bonn", " Riga", " Oslo" .. The other town that is told is always among them. Training text never
tells or asks of this thing in this container in this town.
"""

from random import Random

from dbyte.tasks.column import Column
from dbyte.tasks.world.basic import PLACES
from dbyte.tasks.world.chains import pair, question, told


def _draw(rng: Random, n: int) -> list[dict]:
    rows: dict[str, dict] = {}  # by the passage: all rows differ
    while len(rows) < n:
        chains = pair(rng, held_out=True)
        towns = [chain.town for chain in chains]
        choices = [*towns, *rng.sample([place for place in PLACES if place not in towns], 2)]
        rng.shuffle(choices)
        passage = told(rng, chains)
        rows.setdefault(passage, {"passage": passage, "question": question(chains[0]), "choices": choices,
                                  "label": choices.index(towns[0])})
    return list(rows.values())


COLUMN = Column(
    name="ARC-C", metric="acc", chance=0.25, default=500, available=5000, draw=_draw,
    harness={
        "output_type": "multiple_choice",
        "doc_to_text": "{{passage}}\nQuestion: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
    },
)
