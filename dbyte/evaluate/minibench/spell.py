r"""SPELL, after CUTE: spell a made-up word.

Example: "Question: Spell the word bimolu.\nAnswer:" -> " b i m o l u", written and matched exactly. Training text never
has the word. The paper has no such column; spelling is what models of bytes are for.
"""

from random import Random

from dbyte.evaluate.column import Column
from dbyte.text.more_world.spelling import question, word


def _draw(rng: Random, n: int) -> list[dict]:
    words: dict[str, None] = {}
    while len(words) < n:
        words[word(rng, held_out=True)] = None
    return [{"question": question(made), "answer": " ".join(made)} for made in words]


COLUMN = Column(
    name="SPELL", metric="exact_match", chance=0.0, default=500, available=5000, draw=_draw,
    harness={
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 24},
        "filter_list": [{"name": "stripped", "filter": [
            {"function": "regex", "regex_pattern": r"^\s*(.*?)\s*$"}, {"function": "take_first"}]}],
    },
)
