"""HellaS, after HellaSwag: how a script goes on, of four ways.

Example: "Anna bakes bread. First Anna mixes the flour. Then Anna" with " kneads the dough.", " slices the loaf.", "
ties a hook." and " moves a pawn.". One of the wrong ways is a step of the same script, but not the next one. Training
text never tells that this person does this.
"""

from random import Random

from dbyte.tasks.column import Column
from dbyte.tasks.world.scripts import ORDER, SCRIPTS, pairs

PLACES = [(name, script, done) for name, script in pairs()[True] for done in range(len(ORDER))]


def _draw(rng: Random, n: int) -> list[dict]:
    rows = []
    for name, script, done in rng.sample(PLACES, len(PLACES))[:n]:
        right = script.steps[done]
        same = rng.choice([step for step in script.steps if step != right])
        others = [rng.choice(other.steps) for other in rng.sample([s for s in SCRIPTS if s is not script], 2)]
        endings = [right, same, *others]
        rng.shuffle(endings)
        rows.append({"context": f"{script.told(name, done)} {ORDER[done]} {name}",
                     "endings": [f"{ending}." for ending in endings], "label": endings.index(right)})
    return rows


COLUMN = Column(
    name="HellaS", metric="acc", chance=0.25, default=500, available=len(PLACES), draw=_draw,
    harness={
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{endings}}",
        "doc_to_target": "label",
    },
)
