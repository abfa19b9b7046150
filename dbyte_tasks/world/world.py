"""A small, regular world: the text that a teacher of a million parameters can learn, and questions it is never shown.

The benchmarks of the paper (arXiv 2602.01007, Table 1) need teachers with billions of parameters. Here people have
homes, jobs and pets, tools have uses, things are put somewhere and found again, and sums are small. The world itself is
fixed by WORLD_SEED; the seed of `world_documents` only draws and orders the documents.

Held-out rule: a keyed hash of a fact decides whether it may appear in question form (facts, uses) or at all (story
events, sums). Training text never contains a held-out question, event or sum; evaluation draws from nothing else. Facts
and uses are always stated as prose: a held-out question asks for something known in a form not seen for it.
"""

import hashlib
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import TypeVar

Item = TypeVar("Item")
Writer = Callable[[Random, Sequence[str]], str]  # writes a paragraph about a cast of names

WORLD_SEED = 2602
MIN_BYTES = 2048  # no document is longer, so any larger budget yields text

WORDS = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))
NAMES, PLACES, THINGS, COLOURS, COUNTED = (
    tuple(WORDS[kind].split()) for kind in ("names", "places", "things", "colours", "counted"))


@dataclass(frozen=True)
class Attribute:
    """One thing to know about a person: its values, the ways to say it ({n} name, {v} value) and to ask for it."""

    name: str
    values: Sequence[str]
    clauses: Sequence[str]  # follow the name: "Anna" + " " + clause
    sentence: str
    questions: Sequence[str]


@dataclass(frozen=True)
class Tool:
    """A tool, its verb and the objects of that verb: "cut the bread" needs the knife."""

    name: str
    verb: str
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Event:
    """A kind of story event: how it is told, and how a later sentence comes back to it.

    The last word of `recall` is a slot that the first sentence has already filled, so only a reader of that sentence
    knows it. Slots: {a} who acts, {c} who receives, {x} thing, {p} place, {v} colour.
    """

    name: str
    slots: str
    told: Sequence[str]
    recall: Sequence[str]


@dataclass(frozen=True)
class Sum:
    """A two-step sum: start, then two signed changes; every intermediate result is positive."""

    start: int
    first: int
    second: int

    def answer(self) -> str:
        """The worked answer, one sentence per step, and `#### N` at its end."""
        told = []
        value = self.start
        for change in (self.first, self.second):
            told.append(f"{value} {'+' if change > 0 else '-'} {abs(change)} = {value + change}.")
            value += change
        return " ".join([*told, f"#### {value}"])


ATTRIBUTES = tuple(Attribute(name, **words) for name, words in WORDS["attributes"].items())
TOOLS = tuple(Tool(name, verb, tuple(objects.split())) for name, (verb, objects) in WORDS["tools"].items())
EVENTS = tuple(Event(name, **words) for name, words in WORDS["events"].items())
GAINS, LOSSES = WORDS["gains"], WORDS["losses"]
STARTS, CHANGES = range(2, 13), (*range(-7, -1), *range(2, 8))  # no change of one: "1 apples" is not English

# Which share of each kind is kept out of training, and how often each kind of paragraph is drawn.
HELD_OUT_SHARE = {
    "fact": 1 / 3, "use": 2 / 3, "event": 1 / 6, "sum": 2 / 5,
    "script": 1 / 4, "chain": 1 / 6, "reason": 1 / 6, "kind": 1 / 2, "letter": 1 / 6, "spelling": 1 / 6}
PARAGRAPHS = {"facts": 5, "fact_questions": 4, "stories": 6, "sums": 4, "uses": 1, "use_questions": 1}


@dataclass(frozen=True)
class World:
    """What is true in the world of one seed, and which of it is held out from training."""

    seed: int = WORLD_SEED

    @cached_property
    def facts(self) -> dict[tuple[str, str], str]:
        """The value of every (name, attribute name); the values of an attribute are spread evenly over the people."""
        rng = Random(f"facts {self.seed}")
        facts: dict[tuple[str, str], str] = {}
        for attribute in ATTRIBUTES:
            values = [attribute.values[i % len(attribute.values)] for i in range(len(NAMES))]
            rng.shuffle(values)
            facts.update({(name, attribute.name): value for name, value in zip(NAMES, values, strict=True)})
        return facts

    def held_out(self, kind: str, *key: str) -> bool:
        """Whether the item `key` of this kind (a key of HELD_OUT_SHARE) is reserved for evaluation."""
        text = "\x1f".join((kind, *key)).encode()
        digest = hashlib.blake2b(text, digest_size=8, key=f"world {self.seed}".encode()).digest()
        return int.from_bytes(digest, "big") < HELD_OUT_SHARE[kind] * 2**64

    @cached_property
    def questions(self) -> dict[bool, tuple[tuple[str, Attribute], ...]]:
        """(name, attribute) pairs by whether their question is held out."""
        return self.split("fact", [((name, a.name), (name, a)) for name in NAMES for a in ATTRIBUTES])

    @cached_property
    def goals(self) -> dict[bool, tuple[tuple[str, Tool], ...]]:
        """(goal, tool) pairs such as ("cut the bread", knife), by whether their question is held out."""
        pairs = [(f"{tool.verb} the {thing}", tool) for tool in TOOLS for thing in tool.objects]
        return self.split("use", [((goal,), (goal, tool)) for goal, tool in pairs])

    @cached_property
    def sums(self) -> dict[bool, tuple[Sum, ...]]:
        """All sums whose two results are positive, by whether they are held out, whatever the story around them."""
        triples = [Sum(a, b, c) for a in STARTS for b in CHANGES for c in CHANGES if a + b > 0 and a + b + c > 0]
        return self.split("sum", [((str(s.start), str(s.first), str(s.second)), s) for s in triples])

    def split(self, kind: str, keyed: Sequence[tuple[tuple[str, ...], Item]]) -> dict[bool, tuple[Item, ...]]:
        """The items of (key, item) pairs by whether the key is held out."""
        return {flag: tuple(item for key, item in keyed if self.held_out(kind, *key) is flag) for flag in (False, True)}


WORLD = World()


def fact_question(rng: Random, name: str, attribute: Attribute) -> str:
    """One of the ways to ask for the attribute of the person."""
    return rng.choice(attribute.questions).format(n=name)


def use_question(goal: str) -> str:
    """The question for a goal such as "cut the bread"."""
    return f"How do you {goal}?"


def use_answer(tool: Tool) -> str:
    """The answer that names the tool."""
    return f"Use the {tool.name}."


def sum_question(rng: Random, problem: Sum, *, name: str) -> str:
    """The sum told as a word problem about one person."""
    counted = rng.choice(COUNTED)
    changes = [f"Then {name} {rng.choice(GAINS if change > 0 else LOSSES).format(k=abs(change), s=counted)}."
               for change in (problem.first, problem.second)]
    return f"{name} has {problem.start} {counted}. {' '.join(changes)} How many {counted} does {name} have now?"


def story(rng: Random, *, people: Sequence[str], held_out: bool) -> tuple[list[str], list[tuple[str, str]]]:
    """Two events of different kinds, and the sentences that come back to them.

    Returns (told, recall): two sentences, and for each of the two events both ways to come back to it; the event of
    recall[0] is told first or second at random. With `held_out` the event of recall[0] is held out and the other is
    not; without it, neither is. The events share no slot value, so one told sentence decides each recalled word.
    """
    while True:
        events = rng.sample(EVENTS, 2)
        cast = rng.sample(people, 4)
        things = rng.sample(THINGS, 2)
        places = rng.sample(PLACES, 2)
        colours = rng.sample(COLOURS, 2)
        slots = [{"a": cast[i], "c": cast[2 + i], "x": things[i], "p": places[i], "v": colours[i]} for i in (0, 1)]
        pairs = list(zip(events, slots, strict=True))
        flags = [WORLD.held_out("event", event.name, *(s[k] for k in event.slots)) for event, s in pairs]
        if flags == [held_out, False]:
            break
    told = [rng.choice(event.told).format(**s) for event, s in pairs]
    recall = [tuple(phrase.format(**s) for phrase in event.recall) for event, s in pairs]
    return (told if rng.random() < 0.5 else told[::-1]), recall


def documents(
    label: str, weights: Mapping[str, int], writers: Mapping[str, Writer], *, seed: int, max_bytes: int
) -> Iterator[str]:
    """Training documents of about 200 to 800 bytes, at most `max_bytes` UTF-8 bytes in all.

    Each is a few paragraphs, drawn by weight, about a cast of four people, whose names recur: a reason to look back in
    the text. Paragraphs are separated by blank lines; a document ends with a newline. Label and seed decide them all.
    Raises ValueError if `max_bytes` is less than MIN_BYTES.
    """
    if max_bytes < MIN_BYTES:
        raise ValueError(f"the world needs max_bytes >= {MIN_BYTES}, got {max_bytes}: ask for more text")
    rng = Random(f"{label} {seed}")
    left = max_bytes
    while True:
        cast = rng.sample(NAMES, 4)
        kinds = rng.choices(tuple(weights), weights=tuple(weights.values()), k=rng.randint(3, 4))
        text = "\n\n".join(writers[kind](rng, cast) for kind in kinds) + "\n"
        left -= len(text.encode())
        if left < 0:
            return
        yield text


def _facts(rng: Random, cast: Sequence[str]) -> str:
    """Three or four attributes of one of the cast, in varying words."""
    name = rng.choice(cast)
    chosen = rng.sample(ATTRIBUTES, rng.randint(3, 4))
    sentences = []
    for attribute in chosen[:2]:
        if rng.random() < 0.4:
            sentences.append(attribute.sentence.format(n=name, v=WORLD.facts[name, attribute.name]))
        else:
            sentences.append(f"{name} {_clause(rng, name, attribute)}.")
    clauses = " and ".join(_clause(rng, name, attribute) for attribute in chosen[2:])
    return " ".join([*sentences, f"{name} {clauses}."])


def _clause(rng: Random, name: str, attribute: Attribute) -> str:
    return rng.choice(attribute.clauses).format(v=WORLD.facts[name, attribute.name])


def _fact_questions(rng: Random, cast: Sequence[str]) -> str:
    """Two questions about anybody: answers from the same document would teach to copy, not to know."""
    pairs = rng.sample(WORLD.questions[False], 2)
    return "\n\n".join(question_answer(fact_question(rng, name, a), WORLD.facts[name, a.name]) for name, a in pairs)


def _stories(rng: Random, cast: Sequence[str]) -> str:
    told, recall = story(rng, people=cast, held_out=False)
    return " ".join([*told, *rng.sample([*recall[0], *recall[1]], 3)])


def _sums(rng: Random, cast: Sequence[str]) -> str:
    problem = rng.choice(WORLD.sums[False])
    return question_answer(sum_question(rng, problem, name=rng.choice(cast)), problem.answer())


def _uses(rng: Random, cast: Sequence[str]) -> str:
    """Three uses stated as prose; held-out goals are stated like the others, only never asked for."""
    pairs = rng.sample(WORLD.goals[False] + WORLD.goals[True], 3)
    return " ".join(rng.choice(WORDS["uses"]).format(g=goal, t=tool.name, n=rng.choice(cast)) for goal, tool in pairs)


def _use_questions(rng: Random, cast: Sequence[str]) -> str:
    pairs = rng.sample(WORLD.goals[False], 2)
    return "\n\n".join(question_answer(use_question(goal), use_answer(tool)) for goal, tool in pairs)


def question_answer(question: str, answer: str) -> str:
    """A question with its answer as training text has them."""
    return f"Question: {question}\nAnswer: {answer}"


def shuffled(rng: Random, right: str, wrong: Iterable[str]) -> tuple[list[str], int]:
    """(choices in random order, the number of the right one)."""
    choices = [right, *wrong]
    rng.shuffle(choices)
    return choices, choices.index(right)


WRITERS: Mapping[str, Writer] = {
    "facts": _facts, "fact_questions": _fact_questions, "stories": _stories,
    "sums": _sums, "uses": _uses, "use_questions": _use_questions,
}
world_documents = partial(documents, "world documents", PARAGRAPHS, WRITERS)  # none holds what evaluation asks for
