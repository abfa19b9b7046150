r"""GSM8K, after GSM8K: two-step word problems, generated and matched.

Example: "Question: Bella has 2 books. Then Bella finds 6 more books. Then Bella gives away 5 books. How many books does
Bella have now?\nAnswer:" -> " 2 + 6 = 8. 8 - 5 = 3. #### 3". The model writes its steps; the number after #### is
matched exactly (the original's strict-match filter). The three numbers of an item occur together in no training text.
"""

from random import Random

from dbyte.tasks.column import Column
from dbyte.tasks.world.basic import NAMES, WORLD, sum_question


def _draw(rng: Random, n: int) -> list[dict]:
    problems = rng.sample(WORLD.sums[True], len(WORLD.sums[True]))[:n]
    questions = [sum_question(rng, problem, name=rng.choice(NAMES)) for problem in problems]
    return [{"question": q, "answer": problem.answer()} for q, problem in zip(questions, problems, strict=True)]


COLUMN = Column(
    name="GSM8K", metric="exact_match", chance=0.0, default=min(500, len(WORLD.sums[True])),
    available=len(WORLD.sums[True]), draw=_draw,
    harness={
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer.split('#### ')[1]}}",
        # 64 is room for the longest answer even where a model counts bytes instead of tokens.
        "generation_kwargs": {"until": ["\n\n", "\nQuestion"], "do_sample": False, "max_gen_toks": 64},
        "filter_list": [{
            "name": "strict-match",
            "filter": [{"function": "regex", "regex_pattern": r"#### (\-?[0-9]+)"}, {"function": "take_first"}],
        }],
    },
)
