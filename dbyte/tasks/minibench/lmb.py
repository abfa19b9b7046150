"""LMB, after LAMBADA: the last word of a short passage, which an earlier sentence has already named.

Example: "Walter left the ring in Bergen. Emma gave the lamp to Leo. Later Walter found the ring in" ->
" Bergen". The event behind the last sentence is a held-out one: no training text tells it. Scored as LAMBADA is:
right if greedy decoding gives the word, so guessing scores next to nothing.
"""

from random import Random

from dbyte.tasks.column import Column
from dbyte.tasks.world.basic import NAMES, story


def _draw(rng: Random, n: int) -> list[dict]:
    passages: dict[str, None] = {}  # a dict keeps the order of drawing, so that a smaller n is a prefix
    while len(passages) < n:
        told, recall = story(rng, people=NAMES, held_out=True)
        passages[" ".join([*told, rng.choice(recall[0])]).removesuffix(".")] = None
    return [{"text": text} for text in passages]


COLUMN = Column(
    name="LMB", metric="acc", chance=0.0, default=500, available=5000, draw=_draw,
    harness={
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.rsplit(' ', 1)[0]}}",
        "doc_to_target": "{{' ' + text.rsplit(' ', 1)[1]}}",
    },
)
