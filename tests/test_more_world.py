"""The rest of the world and its six columns: nothing held out is told, labels are right, and `world` is untouched.

Training text is read back here with patterns of its own, so that a writer that forgets the held-out rule is caught.
"""

import hashlib
import re
from itertools import chain
from random import Random

import numpy as np
import pytest
from lm_eval.api.model import LM

from dbyte.evaluate.harness import evaluate
from dbyte.tasks import minibench
from dbyte.tasks.column import items_hash
from dbyte.tasks.minibench import COLUMNS, EVERY, MINI_CUTE, items, taught_by
from dbyte.tasks.world import chains, echoes, kinds, letters, reasons, scripts, spelling
from dbyte.tasks.world.full import full_world_documents
from dbyte.tasks.world.world import MIN_BYTES, NAMES, PLACES, THINGS, WORLD, world_documents
from dbyte.text.corpus import load_corpus
from dbyte.text.stream import source_of

NEW = ("HellaS", "ARC-C", "WINO", "OBQA", "MMLU", "SPELL")


@pytest.fixture(scope="module")
def documents():
    return list(full_world_documents(seed=0, max_bytes=5_000_000))


@pytest.fixture(scope="module")
def text(documents):
    return "\n\n".join(documents)


def answered(column):
    """Every item of a column as (context, right continuation), written out without the harness's templates."""
    for row in items(column):
        match column:
            case "HellaS":
                yield row["context"], f" {row['endings'][row['label']]}"
            case "ARC-C":
                yield f"{row['passage']}\nQuestion: {row['question']}\nAnswer:", f" {row['choices'][row['label']]}"
            case "WINO":
                before, rest = row["sentence"].split("_")
                yield before + row[f"option{row['answer']}"], rest
            case "OBQA":
                yield row["question_stem"], f" {row['choices'][row['label']]}"
            case "MMLU":
                yield row["prompt"], f" {'ABCD'[row['label']]}"
            case "SPELL":
                yield f"Question: {row['question']}\nAnswer:", f" {row['answer']}"


class Knowing(LM):
    def __init__(self, right=True):
        super().__init__()
        self.right, self.known = right, set(chain.from_iterable(map(answered, NEW)))

    def loglikelihood(self, requests):
        return [(-1.0, True) if (r.args in self.known) == self.right else (-2.0, False) for r in requests]

    def generate_until(self, requests):
        answers = dict(self.known)
        return [answers[r.args[0]] if self.right else " b a" for r in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


# -- the switch -------------------------------------------------------------------------------------------------------


def test_the_world_that_models_were_trained_on_is_the_same_to_the_byte():
    text = "".join(world_documents(seed=0, max_bytes=1_000_000))
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "c8dbda74b69f34aa921fa90894c6c5f9fec84f686e9264b5aeb9a4eb6abccb02")
    first, full = (load_corpus(name, max_bytes=30_000).content_hash for name in ("world", "world_full"))
    assert first != full


def test_corpora_tell_which_columns_are_asked():
    assert list(taught_by(["world", "pydocs"])) == ["LMB", "PIQA", "ARC-E", "GSM8K"] == list(COLUMNS)
    assert list(taught_by(["pydocs", "world_full"])) == list(EVERY) and set(NEW) == set(EVERY) - set(COLUMNS)
    assert list(EVERY)[:-1] == ["LMB", "HellaS", "PIQA", "ARC-E", "ARC-C", "WINO", "OBQA", "MMLU", "GSM8K"]


def test_the_full_world_can_be_streamed():
    first, other = source_of("world_full", seed=0), source_of("world", seed=0)
    assert first.reader(0, 1).read() != other.reader(0, 1).read() and first.revision != other.revision


# -- the text ---------------------------------------------------------------------------------------------------------


def test_documents_are_whole_and_depend_on_the_seed(documents):
    assert documents[:100] == [t for t, _ in zip(full_world_documents(seed=0, max_bytes=10**6), range(100))]  # noqa: B905
    assert set(documents[:100]).isdisjoint(full_world_documents(seed=1, max_bytes=10**6))
    assert all(text.endswith("\n") and len(text.encode()) < MIN_BYTES for text in documents)
    with pytest.raises(ValueError, match="max_bytes"):
        full_world_documents(seed=0, max_bytes=10)


@pytest.mark.parametrize("column", EVERY)
def test_no_item_occurs_in_training_text(column, text):
    told = {"LMB": lambda row: row["text"], "PIQA": lambda row: row["goal"], "ARC-E": lambda row: row["question"],
            "GSM8K": lambda row: row["question"]}
    contexts = [told[column](row) for row in items(column)] if column in told else [c for c, _ in answered(column)]
    assert len(contexts) > 100 and not [context for context in contexts if context in text]


def test_a_script_that_is_held_out_is_never_told(text):
    for flag, wanted in ((True, 0), (False, 0.7)):
        pairs = scripts.pairs()[flag]
        told = [f"{name} {script.name}." in text for name, script in pairs]
        assert np.mean(told) >= wanted and (flag is False or not any(told))
    steps = [step for script in scripts.SCRIPTS for step in script.steps]
    assert len(set(steps)) == len(steps), "each step belongs to one script"
    for name, script in scripts.pairs()[True]:
        assert not any(f"{name} {step}." in text for step in script.steps)


def test_a_chain_that_is_held_out_is_never_told(text):
    passages = [block for block in text.split("\n\n") if re.match(r"The \w+ is in (the \w+|[A-Z]\w+)\.", block)]
    assert len(passages) > 1000
    for passage in passages:
        towns = dict(re.findall(r"The (\w+) is in ([A-Z]\w+)\.", passage))
        told = {thing: (box, towns[box]) for thing, box in re.findall(r"The (\w+) is in the (\w+)\.", passage)}
        assert len(told) == 2 and not any(WORLD.held_out("chain", thing, *rest) for thing, rest in told.items())
        for thing, town in re.findall(r"Where is the (\w+)\?\nAnswer: (\w+)", passage):
            assert towns[thing if thing in towns else told[thing][0]] == town


def test_a_deed_that_is_held_out_is_never_told_and_reasons_are_right(text):
    why = {deed.verb: deed for deed in reasons.DEEDS}
    found = re.findall(r"(\w+) (\w+) (\w+) because (\w+) ([^.]+)\.", text)
    assert len(found) > 3000
    for doer, verb, other, who, reason in found:
        assert not WORLD.held_out("reason", verb, doer, other)
        assert (who, reason) in ((doer, why[verb].of_doer), (other, why[verb].of_other))


def test_a_trait_that_is_held_out_is_neither_stated_nor_asked(text):
    words = [word for kind in kinds.KINDS for word in (kind.name, *kind.members)]
    assert len(set(words)) == len(words)
    for flag in (True, False):
        for kind, member, trait in kinds.facts()[flag]:
            statement, question = (form.format(m=member) for form in kinds.TRAITS[trait])
            assert (f"{statement} {kind.values[trait]}." in text, question in text) == (not flag, not flag)
    for kind in kinds.KINDS:
        assert all(f"The {member} is {kind.with_article}." in text for member in kind.members)
        assert all(f"{form.format(m=kind.name)} {value}." in text
                   for (form, _), value in zip(kinds.TRAITS, kind.values, strict=True))


def right_letters(text):
    """Every question with letters as (block, four options, question, letter), none wrong, none held out."""
    form = re.compile(r"Choices: (\w+) A, (\w+) B, (\w+) C, (\w+) D\nQuestion: (.+)\nAnswer: (.)")
    facts = {q.format(n=n): (WORLD.facts[n, a.name], WORLD.held_out("fact", n, a.name))
             for (n, a) in (*WORLD.questions[True], *WORLD.questions[False]) for q in a.questions}
    asked = [(block, *ask) for block in text.split("\n\n") for ask in form.findall(block)]
    for block, *choices, question, letter in asked:
        answer = choices["ABCD".index(letter)]
        if told := re.findall(r"(\w+) put the (\w+) in (\w+)\.", block):
            assert len(told) == 2 and not any(WORLD.held_out("letter", *put) for put in told)
            assert [f"Where did {n} put the {x}?" for n, x, p in told if p == answer] == [question]
            assert {town for *_, town in told} < set(choices)
        elif option := re.fullmatch(r"Which letter is (\w+)\?", question):
            assert option[1] == answer
            assert not WORLD.held_out("letter", answer, choices["ABCD".index(letter) - 1])
        else:
            assert facts[question] == (answer, False)
    return asked


def test_letters_say_what_stands_behind_them(text):
    lists = re.findall(
        r"Choices: (\w+) A, (\w+) B, (\w+) C, (\w+) D\n(\w+ is .+)((?:\nQuestion: .+\nAnswer: .)+)", text)
    assert len(lists) > 2000
    for *choices, said, asks in lists:
        given = dict(zip("ABCD", choices, strict=True))
        assert len(set(choices)) == 4
        for left, right in re.findall(r"(\w+) is (\w+)\.", said):
            assert given.get(left) == right or given.get(right) == left
        for option, letter in re.findall(r"Which letter is (\w+)\?\nAnswer: (.)", asks):
            assert given[letter] == option
            assert not WORLD.held_out("letter", option, choices["ABCD".index(letter) - 1])
    asked = right_letters(text)
    assert len(asked) > 1000 and 0.2 < np.mean([" put the " in block for block, *_ in asked]) < 0.4
    plain = [(block, *ask) for block in text.split("\n\n")
             for ask in re.findall(r"Question: Where did (\w+) put the (\w+)\?\nAnswer: (\w\w+)\n", block)]
    assert len(plain) > 200 and all(f"{name} put the {thing} in {town}." in told for told, name, thing, town in plain)
    assert max(np.bincount(["ABCD".index(letter) for *_, letter in asked])) < 0.3 * len(asked)


def test_lookups_are_right_and_ask_for_nothing_that_is_held_out():
    """What the whole world's teacher reads before: blocks of lists of letters, said again or asked."""
    text = "\n".join(load_corpus("lookups", max_bytes=1_000_000).documents)
    assert not [row for row in items("MMLU", EVERY["MMLU"].available) if row["prompt"] in text]
    assert len({block for block, *_ in right_letters(text) if " put the " in block}) > 30
    said = asked = 0
    for block in re.split(r"\n(?=Choices: )|\n\n", text):
        if not (listed := re.match(r"Choices: (\w+) A, (\w+) B, (\w+) C, (\w+) D", block)):
            continue
        given = dict(zip("ABCD", listed.groups(), strict=True))
        for line in re.findall(r"Again: (.+)", block):
            assert {letter: option for option, letter in re.findall(r"(\w+) ([A-D])", line)} == given
            said += 1
        for option, letter in re.findall(r"Which letter is (\w+)\?\nAnswer: ([A-D])", block):
            assert given[letter] == option
            assert not WORLD.held_out("letter", option, given["ABCD"["ABCD".index(letter) - 1]])
            asked += 1
    assert said > 1000 and asked > 1000


def test_echoes_say_the_same_pairs_three_times(text):
    found = re.findall(r"(?:^|\n\n)((?: \w+){12})\n((?: \w+){12})\n((?: \w+){12})\n", text)
    assert len(found) > 500
    orders = 0
    for lines in found:
        words = [line.split() for line in lines]
        pairs = [list(zip(w[::2], w[1::2], strict=True)) for w in words]
        assert set(pairs[0]) == set(pairs[1]) == set(pairs[2]) and len(set(words[0])) == 12
        orders += pairs[0] != pairs[1]
    assert orders > 0.9 * len(found)
    alone = "".join(load_corpus("echoes", max_bytes=100_000).documents)
    assert re.fullmatch(r"(?:(?: \w+){12}\n+)+", alone) and set(alone.split()) == set(echoes.WORDS)


def test_words_are_spelt_right_and_none_is_held_out(text):
    found = re.findall(r"Spell the word (\w+)\.\nAnswer: (.+)\n", text)
    assert len(found) > 1000
    assert all(" ".join(word) == spelt and not WORLD.held_out("spelling", word) for word, spelt in found)


def test_letters_asked_of_words_are_answered_right_and_no_word_is_held_out(text):
    """By other means than the writer's: letter by letter."""
    def edited(word, change):
        return "".join(change(letter) for letter in word)

    forms = {
        r"Which word is spelt ([a-z ]+)\?": lambda spelt: (spelt[::2], spelt[::2]),
        r"Is there a letter (\w) in (\w+)\?": lambda a, word: (word, "Yes" if word.count(a) else "No"),
        r"Put (\w) behind every (\w) in (\w+)\.": lambda b, a, word: (word, edited(word, lambda c: c + b * (c == a))),
        r"Leave out every (\w) in (\w+)\.": lambda a, word: (word, edited(word, lambda c: c * (c != a))),
        r"Replace every (\w) by (\w) in (\w+)\.": lambda a, b, word: (word, edited(word, lambda c: b if c == a else c)),
        r"Exchange (\w) and (\w) in (\w+)\.": lambda a, b, word: (
            word, edited(word, lambda c: b if c == a else a if c == b else c)),
    }
    for form, solve in forms.items():
        found = re.findall(rf"{form}\nAnswer: (\w+)\n", text)
        assert len(found) > 150, form
        for *given, answer in found:
            word, right = solve(*given)
            assert answer == right, (form, given, answer)
            assert not [made for made in (word, answer) if WORLD.held_out("spelling", made)], (form, given, answer)


# -- the columns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", NEW)
def test_items_depend_on_the_seed_alone_and_fewer_are_a_prefix(column):
    every = items(column, EVERY[column].available)
    assert len(items(column)) >= 500
    assert every[:50] == items(column, 50) and items_hash(every[:50]) != items_hash(items(column, 50, seed=1))
    assert len({str(sorted(row.items())) for row in every}) == len(every)


HASHES = {"HellaS": "46f6744c078f", "ARC-C": "613a04621890", "WINO": "02a3da4d9311",
          "OBQA": "e35c27372a84", "MMLU": "89b1a1331b69", "SPELL": "ca30c4d67c7a"}


@pytest.mark.parametrize("column", NEW)
def test_the_items_are_the_same_everywhere(column):
    assert items_hash(items(column))[:12] == HASHES[column]


def test_the_harness_gives_full_marks_to_the_answers_and_none_to_the_rest():
    right, wrong = evaluate(Knowing(), columns=NEW, limit=60), evaluate(Knowing(right=False), columns=NEW, limit=60)
    for column in NEW:
        assert (right[column].accuracy, wrong[column].accuracy, right[column].n) == (1.0, 0.0, 60)
        assert right[column].chance == minibench.CHANCE[column]
        assert right[column].items_hash == items_hash(items(column, 60))


@pytest.mark.parametrize("kind", MINI_CUTE)
def test_mini_cute_asks_new_words_and_half_of_its_yes_and_no_are_yes(kind, text):
    rows = MINI_CUTE[kind].items()
    assert len({row["question"] for row in rows}) == 500 and rows[:20] == MINI_CUTE[kind].items(20)
    assert not [row for row in rows if row["question"] in text]
    assert not [row for row in rows if row["question"].endswith(f"spelt {row['answer']}?")]
    if kind == "contains_char":
        assert 0.4 < np.mean([row["answer"] == "Yes" for row in rows]) < 0.6
    else:
        assert not [row for row in rows if row["question"].endswith(f" {row['answer']}.")], "nothing to do"


def test_labels_are_evenly_spread_and_length_does_not_tell():
    for column, key, choices in (("HellaS", "endings", 4), ("ARC-C", "choices", 4), ("OBQA", "choices", 4),
                                 ("MMLU", None, 4)):
        rows = items(column)
        counts = np.bincount([row["label"] for row in rows], minlength=choices)
        assert counts.min() > 0.7 * counts.mean(), column
        if key:
            right = [row[key][row["label"]] for row in rows]
            for extreme in (max, min):
                share = np.mean([a == extreme(row[key], key=len) for a, row in zip(right, rows, strict=True)])
                assert share < EVERY[column].chance + 0.12, (column, share)
    assert 0.4 < np.mean([row["answer"] == "1" for row in items("WINO")]) < 0.6


def test_wrong_answers_are_wrong():
    """By the texts alone: each item has one choice that the world makes true."""
    step_of = {step: (script, i) for script in scripts.SCRIPTS for i, step in enumerate(script.steps)}
    for row in items("HellaS"):
        script = next(s for s in scripts.SCRIPTS if f" {s.name}." in row["context"])
        done = sum(step in row["context"] for step in script.steps)
        assert [step_of[e.removesuffix(".")] == (script, done) for e in row["endings"]].index(True) == row["label"]
        assert len(set(row["endings"])) == 4
    for row in items("ARC-C"):
        thing = re.search(r"Where is the (\w+)\?", row["question"])[1]
        box = re.search(rf"The {thing} is in the (\w+)\.", row["passage"])[1]
        assert re.search(rf"The {box} is in (\w+)\.", row["passage"])[1] == row["choices"][row["label"]]
        assert len(set(row["choices"])) == 4 and WORLD.held_out("chain", thing, box, row["choices"][row["label"]])
    for row in items("OBQA"):
        (kind,) = [k for k in kinds.KINDS if any(re.search(rf"\b{m}\b", row["question_stem"]) for m in k.members)]
        assert [choice in kind.values for choice in row["choices"]].index(True) == row["label"]
        assert sum(choice in kind.values for choice in row["choices"]) == 1
    shares = [row["subject"] for row in items("MMLU")]
    assert all(0.27 < shares.count(subject) / len(shares) < 0.4 for subject in letters.SUBJECTS)


def test_draws_that_are_asked_to_be_held_out_are():
    rng = Random(0)
    for _ in range(200):
        first, second = chains.pair(rng, held_out=True)
        assert first.held_out() and not second.held_out() and not set(first) & set(second)
        assert WORLD.held_out("spelling", spelling.word(rng, held_out=True))
        passage, asks = letters.story(rng, held_out=True)
        question, choices, right = asks[0]
        name, thing = re.match(r"Where did (\w+) put the (\w+)\?", question).groups()
        assert WORLD.held_out("letter", name, thing, choices[right]) and f"{name} put the {thing}" in passage
        assert name in NAMES and thing in THINGS and set(choices) <= set(PLACES)
