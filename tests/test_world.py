"""The built-in world: deterministic, true to itself, and silent on what it holds out.

Training text is parsed back here with patterns made from the published phrases, so that a writer that forgets the
held-out rule is caught by its text and not by its own bookkeeping.
"""

import hashlib
import re
from random import Random

import pytest

from dbyte.tasks.world import world as w
from dbyte.tasks.world.world import WORLD, world_documents

NUMBERS = re.compile(r"has (\d+) \w+\. Then \w+ (\w+)[a-z ]* (\d+) [^.]*\. Then \w+ (\w+)[a-z ]* (\d+) ")
STEPS = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)\. (\d+) ([+-]) (\d+) = (\d+)\. #### (\d+)\n")
GAIN_VERBS = {phrase.split()[0] for phrase in w.GAINS}


@pytest.fixture(scope="module")
def documents():
    return list(world_documents(seed=0, max_bytes=6_000_000))


@pytest.fixture(scope="module")
def text(documents):
    return "\n\n".join(documents)


def found(phrase, text, **slots):
    """All ways the text fills the slots of a phrase: dicts by slot."""
    pattern = re.escape(phrase)
    for slot in "abcdefghijklmnopqrstuvwxyz":
        pattern = pattern.replace(re.escape("{" + slot + "}"), slots.get(slot, rf"(?P<{slot}>\w+)"), 1)
    return [match.groupdict() for match in re.finditer(rf"(?<!\w){pattern}", text)]


def test_documents_depend_on_the_seed_alone(documents):
    assert documents[:200] == [text for text, _ in zip(world_documents(seed=0, max_bytes=10**6), range(200))]  # noqa: B905
    assert set(documents[:200]).isdisjoint(world_documents(seed=1, max_bytes=10**6))


def test_documents_keep_to_the_budget_and_to_their_size(documents):
    sizes = [len(text.encode()) for text in documents]
    assert 6_000_000 - w.MIN_BYTES < sum(sizes) <= 6_000_000
    assert min(sizes) >= 200 and max(sizes) < w.MIN_BYTES and 300 < sum(sizes) / len(sizes) < 900
    assert len(set(documents)) == len(documents)
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in documents)


def test_too_small_a_budget_is_refused():
    with pytest.raises(ValueError, match="max_bytes"):
        next(world_documents(seed=0, max_bytes=100))


def test_the_world_itself_never_changes():
    """Results of different machines and Python versions compare only if everybody lives in the same world."""
    goals = [[goal for goal, _ in WORLD.goals[flag]] for flag in (True, False)]
    told = repr((sorted(WORLD.facts.items()), goals, WORLD.sums[True]))
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "c313f1d86ae137ce"
    assert w.World(seed=1).facts != WORLD.facts


def test_held_out_shares_are_about_what_they_claim():
    for kind, split in (("fact", WORLD.questions), ("use", WORLD.goals), ("sum", WORLD.sums)):
        n, expected = len(split[True]) + len(split[False]), w.HELD_OUT_SHARE[kind]
        three_sigma = 3 * (expected * (1 - expected) / n) ** 0.5
        assert len(split[True]) / n == pytest.approx(expected, abs=three_sigma), kind


def test_every_statement_is_true_and_every_fact_is_stated(text):
    stated = set()
    for attribute in w.ATTRIBUTES:
        for phrase in (*(f"{{n}} {clause}" for clause in attribute.clauses), attribute.sentence):
            for slots in found(phrase, text):
                if slots["n"] in w.NAMES:
                    assert WORLD.facts[slots["n"], attribute.name] == slots["v"], (phrase, slots)
                    stated.add((slots["n"], attribute.name))
    assert stated == set(WORLD.facts)


def test_every_goal_is_stated(text):
    goals = [goal for flag in (False, True) for goal, _ in WORLD.goals[flag]]
    assert len(set(goals)) == len(goals) == 256
    for goal, tool in (*WORLD.goals[False], *WORLD.goals[True]):
        assert f"{goal}, use the {tool.name}." in text or f"{goal} with the {tool.name}." in text, goal


def test_no_held_out_question_is_asked(text):
    asked = set(re.findall(r"Question: (.*)\n", text))
    for name, attribute in WORLD.questions[True]:
        assert asked.isdisjoint(q.format(n=name) for q in attribute.questions)
    assert asked.isdisjoint(w.use_question(goal) for goal, _ in WORLD.goals[True])
    for name, attribute in WORLD.questions[False]:  # the others are: the test above must be able to fail
        assert not asked.isdisjoint(q.format(n=name) for q in attribute.questions)


def test_answers_to_questions_are_true(text):
    answers = dict(re.findall(r"Question: (.*)\nAnswer: (.*)\n", text))
    for name, attribute in WORLD.questions[False]:
        assert {answers[q] for q in (q.format(n=name) for q in attribute.questions) if q in answers} == {
            WORLD.facts[name, attribute.name]}
    for goal, tool in WORLD.goals[False]:
        assert answers[w.use_question(goal)] == f"Use the {tool.name}."


def test_no_held_out_sum_is_told(text):
    seen = set()
    for start, first_verb, first, second_verb, second in NUMBERS.findall(text):
        signs = [1 if verb in GAIN_VERBS else -1 for verb in (first_verb, second_verb)]
        seen.add(w.Sum(int(start), signs[0] * int(first), signs[1] * int(second)))
    assert len(seen) > 0.9 * len(WORLD.sums[False]) and seen.isdisjoint(WORLD.sums[True])
    assert text.count("How many") == len(NUMBERS.findall(text))  # none escaped the pattern


def test_sums_are_right_and_followed_by_a_line_end(text):
    steps = STEPS.findall(text)
    assert len(steps) == text.count("#### ")
    for a, sign, b, middle, again, sign2, c, end, final in steps:
        assert int(a) + int(sign + b) == int(middle) == int(again)
        assert int(middle) + int(sign2 + c) == int(end) == int(final) > 0


def test_no_held_out_event_is_told(text):
    counted = 0
    for event in w.EVENTS:
        for phrase in event.told:
            for slots in found(phrase, text):
                counted += 1
                assert not WORLD.held_out("event", event.name, *(slots[k] for k in event.slots)), slots
    assert counted > 10_000


def test_a_story_decides_its_last_word():
    """Exactly one sentence told holds the last word, and only that one shares another name or thing with the recall."""
    rng, vocabulary = Random(0), {*w.NAMES, *w.THINGS, *w.PLACES, *w.COLOURS}
    for _ in range(500):
        told, recall = w.story(rng, people=w.NAMES, held_out=True)
        *cues, last = [word for word in re.findall(r"\w+", recall[0][0]) if word in vocabulary]
        having, sharing = ([t for t in told if set(re.findall(r"\w+", t)) & wanted] for wanted in ({last}, set(cues)))
        assert recall[0][0].endswith(f"{last}.") and len(having) == 1 and having == sharing, (told, recall)


def test_a_story_is_held_out_when_asked_to():
    rng, flags = Random(1), []
    for _ in range(300):
        told, recall = w.story(rng, people=w.NAMES, held_out=True)
        last = recall[0][0].removesuffix(".").split()[-1]
        for event in w.EVENTS:
            for phrase in event.told:
                for sentence in told:
                    flags += [(last in sentence, WORLD.held_out("event", event.name, *(s[k] for k in event.slots)))
                              for s in found(phrase, sentence)]
    assert len(flags) == 600 and all(queried == held for queried, held in flags)
