r"""SPELL, after CUTE: spell a made-up word; and MINI_CUTE, the same for seven of CUTE's kinds.

Examples: "Question: Spell the word bimolu.\nAnswer:" -> " b i m o l u"; "Question: Exchange b and m in bimolu.
\nAnswer:" -> " mibolu". Answers are written and matched exactly. Training text never asks of the word. The paper has no
such column; spelling is what models of bytes are for. CUTE's other kinds take real words, see `dbyte/tasks/cute.py`.
"""

from functools import partial
from random import Random

from dbyte.tasks.column import Column
from dbyte.tasks.world.spelling import KINDS, SPELL, Kind, asked, word

HARNESS = {
    "output_type": "generate_until",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 24},
    "filter_list": [{"name": "stripped", "filter": [
        {"function": "regex", "regex_pattern": r"^\s*(.*?)\s*$"}, {"function": "take_first"}]}],
}


def _draw_words(rng: Random, n: int) -> list[dict]:
    words: dict[str, None] = {}
    while len(words) < n:
        words[word(rng, held_out=True)] = None
    return [{"question": SPELL.question.format(word=made), "answer": SPELL.answer(made, "", "")} for made in words]


def _draw(rng: Random, n: int, *, kind: Kind) -> list[dict]:
    rows: dict[str, dict] = {}
    while len(rows) < n:
        question, answer = asked(rng, kind, held_out=True)
        rows.setdefault(question, {"question": question, "answer": answer})
    return list(rows.values())


COLUMN = Column(name="SPELL", metric="exact_match", chance=0.0, default=500, available=5000, draw=_draw_words,
                harness=HARNESS)
MINI_CUTE = {kind.name: Column(
    name=kind.name, metric="exact_match", chance=0.5 if kind.name == "contains_char" else 0.0, default=500,
    available=5000, draw=partial(_draw, kind=kind), harness=HARNESS) for kind in KINDS}
