"""WINO, after WinoGrande: which of two people a reason is about.

Example: "Anna thanked Tom because _ had helped." with the options Anna and Tom. Scored as WinoGrande is: what follows
the gap, " had helped.", is scored behind either name. Training text never tells that these two did this.
"""

from random import Random

from dbyte.tasks.column import Column
from dbyte.tasks.world.basic import NAMES
from dbyte.tasks.world.reasons import DEEDS, beginning, held_out


def _draw(rng: Random, n: int) -> list[dict]:
    rows: dict[str, dict] = {}
    while len(rows) < n:
        deed, (doer, other) = rng.choice(DEEDS), rng.sample(NAMES, 2)
        if not held_out(deed, doer, other):
            continue
        label = rng.randrange(2)
        names = [doer, other] if rng.random() < 0.5 else [other, doer]
        right = names[label]
        sentence = f"{beginning(deed, doer, other)} _ {deed.of_doer if right == doer else deed.of_other}."
        rows.setdefault(sentence, {"sentence": sentence, "option1": names[0], "option2": names[1],
                                   "answer": str(label + 1)})
    return list(rows.values())


def _label(row: dict) -> int:
    return int(row["answer"]) - 1


def _contexts(row: dict) -> list[str]:
    return [row["sentence"].split("_")[0] + row[option] for option in ("option1", "option2")]


def _rest(row: dict) -> str:
    return row["sentence"].split("_ ")[1]


COLUMN = Column(
    name="WINO", metric="acc", chance=0.5, default=500, available=4000, draw=_draw,
    # With several contexts and one continuation the harness reads the label where the text stands otherwise.
    harness={"output_type": "multiple_choice", "doc_to_text": _label, "doc_to_choice": _contexts,
             "doc_to_target": _rest},
)
