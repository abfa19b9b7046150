r"""MiniBench: the paper's benchmark columns, drawn from the built-in world.

A benchmark of the paper (arXiv 2602.01007, Table 1) needs a teacher with billions of parameters; these columns ask the
same kind of question about a world that a teacher of a million parameters can learn. Every item is held out: its
question, event or sum occurs in no training text of the world (tests/test_minibench.py, tests/test_world.py).

A column is a function that makes one row, a line of EVERY that says how rows are drawn (`_sampled` from a pool, or
`_distinct`), and a table of minibench.toml that says how they are asked. To add one, write the three.
"""

import tomllib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

from dbyte_tasks.column import Column
from dbyte_tasks.world import chains, full, kinds, letters, reasons, scripts, spelling, world
from dbyte_tasks.world.world import NAMES, PLACES, TOOLS, WORLD, shuffled

# For each column its metric, chance and harness options.
ASKED = tomllib.loads(Path(__file__).with_name("minibench.toml").read_text(encoding="utf-8"))


def _sampled(name: str, row: Callable[..., dict], pool: Sequence[tuple], *,
             shared: Callable[..., Hashable] | None = None) -> Column:
    """A column of row(rng, *member) for the members of a pool, none of them twice.

    shared(*member): what it has in common with other members, None: nothing.
    """
    def draw(rng: Random) -> Iterator[dict]:
        return (row(rng, *member) for member in rng.sample(pool, len(pool)))

    def together(rng: Random) -> Iterator[Hashable]:
        return (shared(*member) for member in rng.sample(pool, len(pool)))

    return Column(name, default=min(500, len(pool)), available=len(pool), draw=draw,
                  together=together if shared else None, **ASKED[name])


def _distinct(name: str, row: Callable[[Random], dict], *, key: str, asked: Mapping[str, object] | None = None,
              available: int = 5000) -> Column:
    """A column of rows row(rng) that differ under `key`, in the order of drawing.

    asked: its metric, chance and harness options, if they are not those of minibench.toml.
    """
    def draw(rng: Random) -> Iterator[dict]:
        seen = set()
        while True:
            drawn = row(rng)
            if drawn[key] not in seen:
                seen.add(drawn[key])
                yield drawn

    return Column(name, default=500, available=available, draw=draw, **(asked or ASKED[name]))


def _lmb(rng: Random) -> dict:
    """LMB, after LAMBADA: the last word of a short passage, which an earlier sentence has already named.

    Example: "Walter left the ring in Bergen. Emma gave the lamp to Leo. Later Walter found the ring in" -> " Bergen".
    No training text tells the event that the last sentence comes back to. An item is right if greedy decoding writes
    the word, as in LAMBADA, so guessing scores next to nothing.
    """
    told, recall = world.story(rng, people=NAMES, held_out=True)
    return {"text": " ".join([*told, rng.choice(recall[0])]).removesuffix(".")}


def _hellas(rng: Random, name: str, script: scripts.Script, done: int) -> dict:
    """HellaS, after HellaSwag: how a script continues, of four ways.

    Example: "Anna bakes bread. First Anna mixes the flour. Then Anna" with " kneads the dough.", " slices the loaf.",
    " ties a hook." and " moves a pawn.". One wrong ending is a step of the same script, but not the next one. No
    training text tells that this person does this.
    """
    right = script.steps[done]
    same_script = rng.choice([step for step in script.steps if step != right])
    others = rng.sample([other for other in scripts.SCRIPTS if other is not script], 2)
    endings, label = shuffled(rng, right, [same_script, *(rng.choice(other.steps) for other in others)])
    return {
        "context": f"{script.told(name, done)} {scripts.ORDER[done]} {name}",
        "endings": [f"{ending}." for ending in endings],
        "label": label,
    }


def _piqa(rng: Random, goal: str, tool: world.Tool) -> dict:
    r"""PIQA, after PIQA: which of two tools serves a goal; one item per goal.

    Example: "Question: How do you cut the bread?\nAnswer:" with " Use the knife." and " Use the kettle.". Training text
    states the use in prose, but never asks for this goal.
    """
    other = rng.choice([each for each in TOOLS if each != tool])
    label = rng.randrange(2)
    solutions = [world.use_answer(other), world.use_answer(other)]
    solutions[label] = world.use_answer(tool)
    return {"goal": world.use_question(goal), "sol1": solutions[0], "sol2": solutions[1], "label": label}


def _arc_e(rng: Random, name: str, attribute: world.Attribute, form: str) -> dict:
    r"""ARC-E, after ARC Easy: a fact, with four answers of one kind; one item for each way to ask for a fact.

    Example: "Question: Where does Mona live?\nAnswer:" with " Oslo", " Lima", " Rome", " Cairo". Training text states
    the fact in prose, but asks for it in no form.
    """
    right = WORLD.facts[name, attribute.name]
    wrong = rng.sample([value for value in attribute.values if value != right], 3)
    choices, label = shuffled(rng, right, wrong)
    return {"question": form.format(n=name), "choices": choices, "label": label}


def _arc_c(rng: Random) -> dict:
    r"""ARC-C, after ARC Challenge: a question whose answer takes two sentences, with four towns to choose from.

    Example: "The key is in the box. The bag is in Riga. The box is in Bonn. The ring is in the bag.\nQuestion: Where is
    the key?\nAnswer:" with " Bonn", " Riga", " Oslo" .. The other town of the passage is always among them. Training
    text never tells or asks of this thing in this container in this town.
    """
    pair = chains.pair(rng, held_out=True)
    right, other = (chain.town for chain in pair)
    unnamed = rng.sample([place for place in PLACES if place not in (right, other)], 2)
    choices, label = shuffled(rng, right, [other, *unnamed])
    return {"passage": chains.told(rng, pair), "question": chains.question(pair[0]), "choices": choices, "label": label}


def _wino(rng: Random) -> dict:
    """WINO, after WinoGrande: which of two people a reason is about.

    Example: "Anna thanked Tom because _ had helped." with the options Anna and Tom. What follows the gap, " had
    helped.", is scored after either name, as in WinoGrande. Training text never tells that these two did this.
    """
    while True:
        deed = rng.choice(reasons.DEEDS)
        doer, other = rng.sample(NAMES, 2)
        if reasons.held_out(deed, doer, other):
            break
    label = rng.randrange(2)
    names = [doer, other] if rng.random() < 0.5 else [other, doer]
    reason = deed.of_doer if names[label] == doer else deed.of_other
    sentence = f"{reasons.beginning(deed, doer, other)} _ {reason}."
    return {"sentence": sentence, "option1": names[0], "option2": names[1], "answer": str(label + 1)}


# With several contexts and one continuation the harness expects the label as the text, and the text as the target.
WINO_ASKED = {"metric": "acc", "chance": 0.5, "harness": {
    "output_type": "multiple_choice",
    "doc_to_text": lambda row: int(row["answer"]) - 1,
    "doc_to_choice": lambda row: [row["sentence"].split("_")[0] + row[name] for name in ("option1", "option2")],
    "doc_to_target": lambda row: row["sentence"].split("_ ")[1],
}}


def _obqa(rng: Random, fact: tuple[kinds.Kind, str, int], form: str) -> dict:
    r"""OBQA, after OpenBookQA: what is true of a member of a kind follows from what is true of the kind.

    Example: "The robin is covered with" with " feathers", " scales", " bark" and " wax". Training text says that a
    robin is a bird and that a bird is covered with feathers, but neither states nor asks it of the robin. Three items
    for each held-out fact, in different words.
    """
    kind, member, trait = fact
    others = rng.sample([other for other in kinds.KINDS if other is not kind], 3)
    choices, label = shuffled(rng, kind.values[trait], (other.values[trait] for other in others))
    statement, question = (words.format(m=member) for words in kinds.TRAITS[trait])
    return {"question_stem": form.format(statement=statement, question=question), "choices": choices, "label": label}


OBQA_FORMS = ("{statement}", "Question: {question}\nAnswer:", "Everybody knows this. {statement}")


def _mmlu(rng: Random) -> dict:
    r"""MMLU, after MMLU: the answer is the letter of one of four options.

    Example: "Anna put the key in Bonn. Tom put the ring in Riga.\nChoices: Lyon A, Hull B, Bonn C, Riga D\nQuestion:
    Where did Anna put the key?\nAnswer:" -> " C". Three subjects: `lists` asks for the letter of an option, `stories`
    can be read off, `people` asks for facts of the world, which training text states but asks for in no form. Training
    text never asks for an option that follows this other one, and never tells that this person put this thing there.
    """
    subject = rng.choice(letters.SUBJECTS)
    before = ""
    if subject == "stories":
        passage, asks = letters.story(rng, held_out=True)
        question, choices, label = asks[0]
        before = f"{passage}\n"
    elif subject == "lists":
        question, choices, label = letters.listed(rng, held_out=True)
    else:
        question, choices, label = letters.fact(rng, *rng.choice(WORLD.questions[True]))
    return {"subject": subject, "prompt": before + letters.asked(question, choices), "label": label}


def _gsm8k(rng: Random, problem: world.Sum) -> dict:
    r"""GSM8K, after GSM8K: a word problem in two steps, whose answer is written.

    Example: "Question: Bella has 2 books. Then Bella finds 6 more books. Then Bella gives away 5 books. How many books
    does Bella have now?\nAnswer:" -> " 2 + 6 = 8. 8 - 5 = 3. #### 3". The number after #### is matched exactly (the
    original's strict-match filter). The three numbers of an item occur together in no training text.
    """
    return {"question": world.sum_question(rng, problem, name=rng.choice(NAMES)), "answer": problem.answer()}


def _spell(rng: Random) -> dict:
    r"""SPELL, after CUTE: spell a made-up word, about which training text never asks.

    Example: "Question: Spell the word bimolu.\nAnswer:" -> " b i m o l u". The answer is written and matched exactly,
    as in the columns of MINI_CUTE. The paper has no such column; spelling is what models of bytes are for.
    """
    word = spelling.word(rng, held_out=True)
    return {"question": spelling.SPELL.question.format(word=word), "answer": spelling.SPELL.answer(word, "", "")}


def _cute(rng: Random, kind: spelling.QuestionKind) -> dict:
    r"""A column of MINI_CUTE: a question of one kind about the letters of a made-up word.

    Example: "Question: Exchange b and m in bimolu.\nAnswer:" -> " mibolu".
    """
    question, answer = spelling.asked(rng, kind, held_out=True)
    return {"question": question, "answer": answer}


EVERY = {column.name: column for column in (  # Table 4's order, then ours
    _distinct("LMB", _lmb, key="text"),
    _sampled("HellaS", _hellas, [(*pair, done) for pair in scripts.PAIRS[True] for done in range(len(scripts.ORDER))],
             shared=lambda name, script, _: (name, script.name)),
    _sampled("PIQA", _piqa, WORLD.goals[True], shared=lambda _, tool: tool.name),
    _sampled("ARC-E", _arc_e, [(*pair, form) for pair in WORLD.questions[True] for form in pair[1].questions],
             shared=lambda name, attribute, _: (name, attribute.name)),
    _distinct("ARC-C", _arc_c, key="passage"),
    _distinct("WINO", _wino, key="sentence", asked=WINO_ASKED, available=4000),
    _sampled("OBQA", _obqa, [(fact, form) for fact in kinds.FACTS[True] for form in OBQA_FORMS],
             shared=lambda fact, _: (fact[1], fact[2])),
    _distinct("MMLU", _mmlu, key="prompt"),
    _sampled("GSM8K", _gsm8k, [(problem,) for problem in WORLD.sums[True]]),
    _distinct("SPELL", _spell, key="question"),
)}
MINI_CUTE = {  # the kinds that need no real words; the others are in dbyte_tasks/cute.py
    kind.name: _distinct(kind.name, partial(_cute, kind=kind), key="question",
                         asked=ASKED["SPELL"] | {"chance": kind.chance}) for kind in spelling.KINDS
}
COLUMNS = {name: EVERY[name] for name in ("LMB", "PIQA", "ARC-E", "GSM8K")}  # those that the corpus `world` teaches


def taught_by(corpora: Iterable[str]) -> dict[str, Column]:
    """The columns that training on these corpora prepares for: EVERY for `world_full`, else COLUMNS."""
    return EVERY if full.NAME in corpora else COLUMNS


def items(column: str, n: int | None = None, *, seed: int = 0) -> list[dict]:
    """The first n rows of the named column; ValueError for an unknown column or an n that it does not have."""
    if column not in EVERY:
        raise ValueError(f"unknown MiniBench column {column!r}: choose from {', '.join(EVERY)}")
    return EVERY[column].items(n, seed=seed)
