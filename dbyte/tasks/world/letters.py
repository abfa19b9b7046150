"""Letters: questions whose answer is the letter of an option, and the lists that teach what a letter stands for.

A small model is at chance on such questions unless it has learned that " B" can mean what it stands with, so much of
the text is lists with what stands where said in both directions and asked: "Choices: Rome A, Oslo B, Lima C, Cairo D",
"Oslo is B. C is Lima." and "Which letter is Oslo?" A letter stands right behind its option and has a space before it as
in an answer, so that it is one token in both places; the question follows the options, so that what is asked for stands
near its answer.

Three subjects are asked. `lists`: which letter an option has. `stories`: two sentences tell where two people put
something, so the answer can be read off. `people`: the facts of the world, so it must be known. Held out are (option,
the one before it) of a list, (person, thing, town) of a story and (person, attribute) of a fact, the latter together
with the fact's ordinary question.
"""

from collections.abc import Sequence
from random import Random

from dbyte.tasks.world.world import (
    ATTRIBUTES,
    NAMES,
    PLACES,
    THINGS,
    WORLD,
    Attribute,
    fact_question,
    question_answer,
)

LETTERS = "ABCD"
SUBJECTS = ("lists", "stories", "people")
SORTS = (*(attribute.values for attribute in ATTRIBUTES), PLACES)


def options(choices: Sequence[str]) -> str:
    """Four options before their letters."""
    return "Choices: " + ", ".join(f"{choice} {letter}" for letter, choice in zip(LETTERS, choices, strict=True))


def asked(question: str, choices: Sequence[str]) -> str:
    """The options, the question and the word before the letter."""
    return f"{options(choices)}\nQuestion: {question}\nAnswer:"


def _which(choice: str) -> str:
    return f"Which letter is {choice}?"


def _held_out(choices: Sequence[str], right: int) -> bool:
    """Whether evaluation asks for this option behind that one."""
    return WORLD.held_out("letter", choices[right], choices[right - 1])


def listed(rng: Random, *, held_out: bool) -> tuple[str, list[str], int]:
    """(question, four options of one sort, which is asked for); held out or not, as asked."""
    while True:
        choices = rng.sample(rng.choice(SORTS), len(LETTERS))
        right = rng.randrange(len(LETTERS))
        if _held_out(choices, right) is held_out:
            return _which(choices[right]), choices, right


def story(rng: Random, *, held_out: bool) -> tuple[str, list[tuple[str, list[str], int]]]:
    """(passage, [(question, four towns, which is right)]) about two people; the first is held out or not, as asked."""
    while True:
        people, things, towns = (rng.sample(words, 2) for words in (NAMES, THINGS, PLACES))
        if WORLD.held_out("letter", people[0], things[0], towns[0]) is held_out and not WORLD.held_out(
                "letter", people[1], things[1], towns[1]):
            break
    told = list(zip(people, things, towns, strict=True))
    asks = []
    for name, thing, town in told:
        choices = [*towns, *rng.sample([place for place in PLACES if place not in towns], 2)]
        rng.shuffle(choices)
        asks.append((f"Where did {name} put the {thing}?", choices, choices.index(town)))
    return " ".join(f"{n} put the {x} in {p}." for n, x, p in rng.sample(told, 2)), asks


def fact(rng: Random, name: str, attribute: Attribute) -> tuple[str, list[str], int]:
    """(question, four values, which is right)."""
    right = WORLD.facts[name, attribute.name]
    choices = [right, *rng.sample([value for value in attribute.values if value != right], 3)]
    rng.shuffle(choices)
    return fact_question(rng, name, attribute), choices, choices.index(right)


def again_paragraph(rng: Random, cast: Sequence[str]) -> str:
    """A list said again three times in other orders: what stands right behind an option is looked up, no more."""
    letters = list(zip(LETTERS, rng.sample(rng.choice(SORTS), len(LETTERS)), strict=True))
    said = [", ".join(f"{choice} {letter}" for letter, choice in rng.sample(letters, len(letters))) for _ in range(3)]
    return "\n".join([options([choice for _, choice in letters]), *(f"Again: {line}" for line in said)])


def ask_paragraph(rng: Random, cast: Sequence[str]) -> str:
    """A list and a short question for each of its options that evaluation does not ask for."""
    choices = rng.sample(rng.choice(SORTS), len(LETTERS))
    asked_for = [i for i in rng.sample(range(len(LETTERS)), len(LETTERS)) if not _held_out(choices, i)]
    return "\n".join([options(choices), *(question_answer(_which(choices[i]), LETTERS[i]) for i in asked_for)])


def list_paragraph(rng: Random, cast: Sequence[str]) -> str:
    """A list, what three of its letters stand for, in either direction, and up to two short questions.

    What is told is drawn anew each time: of things told in turn the last would follow from the others.
    """
    while True:
        choices = rng.sample(rng.choice(SORTS), len(LETTERS))
        if asked_for := [i for i in range(len(LETTERS)) if not _held_out(choices, i)]:
            break
    letters = list(zip(LETTERS, choices, strict=True))
    told = [rng.choice((f"{choice} is {letter}.", f"{letter} is {choice}."))
            for letter, choice in rng.choices(letters, k=3)]
    asks = [question_answer(_which(choices[i]), LETTERS[i]) for i in rng.sample(asked_for, min(2, len(asked_for)))]
    return "\n".join([options(choices), " ".join(told), *asks])


def question_paragraph(rng: Random, cast: Sequence[str]) -> str:
    """Questions of one subject with their letters, about nothing that is held out; often the plain answer comes before.

    One step at a time: who has just read the answer need only find its letter.
    """
    subject = rng.choice(SUBJECTS)
    if subject == "lists":
        return "\n".join(_answered(*listed(rng, held_out=False)) for _ in range(3))
    if subject == "people":
        pairs = rng.sample(WORLD.questions[False], 2)
        return "\n".join(_led(rng, *fact(rng, name, attribute)) for name, attribute in pairs)
    passage, asks = story(rng, held_out=False)
    return "\n".join([passage, *(_led(rng, *ask) for ask in rng.sample(asks, 2))])


def _answered(question: str, choices: Sequence[str], right: int) -> str:
    return f"{asked(question, choices)} {LETTERS[right]}"


def _led(rng: Random, question: str, choices: Sequence[str], right: int) -> str:
    letter = _answered(question, choices, right)
    return letter if rng.random() < 0.5 else f"{question_answer(question, choices[right])}\n{letter}"
