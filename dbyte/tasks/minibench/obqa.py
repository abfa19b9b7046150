r"""OBQA, after OpenBookQA: what is true of a member of a kind follows from what is true of the kind.

Example: "The robin is covered with" with " feathers", " scales", " bark" and " wax", or the same as a question.
Training text says that a robin is a bird and that a bird is covered with feathers, but of the robin neither states nor
asks it. Three items for each held-out fact, in different words.
"""

from random import Random

from dbyte.tasks.column import Column
from dbyte.tasks.world.kinds import KINDS, TRAITS, facts

FORMS = ("{statement}", "Question: {question}\nAnswer:", "Everybody knows this. {statement}")
ASKED = [(fact, form) for fact in facts()[True] for form in FORMS]


def _draw(rng: Random, n: int) -> list[dict]:
    rows = []
    for (kind, member, trait), form in rng.sample(ASKED, len(ASKED))[:n]:
        right = kind.values[trait]
        choices = [right, *(other.values[trait] for other in rng.sample([k for k in KINDS if k is not kind], 3))]
        rng.shuffle(choices)
        statement, question = (words.format(m=member) for words in TRAITS[trait])
        rows.append({"question_stem": form.format(statement=statement, question=question), "choices": choices,
                     "label": choices.index(right)})
    return rows


COLUMN = Column(
    name="OBQA", metric="acc", chance=0.25, default=min(500, len(ASKED)), available=len(ASKED), draw=_draw,
    harness={
        "output_type": "multiple_choice",
        "doc_to_text": "{{question_stem}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
    },
)
