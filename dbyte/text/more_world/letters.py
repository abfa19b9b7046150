"""Letters: questions whose answer is the letter of an option, and the lists that teach what a letter stands for.

A small model is at chance on such questions unless it has learned that " B" can mean what it stands with, so much of
the text is lists with what stands where said in both directions: "Choices: Rome A, Oslo B, Lima C, Cairo D" and "Oslo
is B. C is Lima." A letter stands right behind its option and has a space before it as in an answer, so that it is one
token in both places. Three subjects are asked. `lists`: which letter an option has. `stories`: two sentences tell where
two people put something, so the answer can be read off. `people`: the facts of the world, so it must be known. Held
out are (option, the one before it) of a list, (person, thing, town) of a story and (person, attribute) of a fact, the
latter together with the fact's ordinary question.
"""

from collections.abc import Sequence
from random import Random

from dbyte.text.world import (
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


def options(choices: Sequence[str]) -> str:
    """Four options before their letters."""
    return "Choices: " + ", ".join(f"{choice} {letter}" for letter, choice in zip(LETTERS, choices, strict=True))


def asked(question: str, choices: Sequence[str]) -> str:
    """The question, its options and the word before the letter."""
    return f"Question: {question}\n{options(choices)}\nAnswer:"


def listed(rng: Random, *, held_out: bool) -> tuple[str, list[str], int]:
    """(question, four options of one sort, which is asked for); held out or not, as asked."""
    while True:
        choices = rng.sample(rng.choice([attribute.values for attribute in ATTRIBUTES] + [PLACES]), len(LETTERS))
        right = rng.randrange(len(LETTERS))
        if WORLD.held_out("letter", choices[right], choices[right - 1]) is held_out:
            return f"Which letter is {choices[right]}?", choices, right


def story(rng: Random, *, held_out: bool) -> tuple[str, str, list[str], int]:
    """(passage, question, four towns, which is right): one of two people is asked about; held out or not, as asked."""
    while True:
        people, things, towns = (rng.sample(words, 2) for words in (NAMES, THINGS, PLACES))
        if WORLD.held_out("letter", people[0], things[0], towns[0]) is held_out and not WORLD.held_out(
                "letter", people[1], things[1], towns[1]):
            break
    sentences = [f"{n} put the {x} in {p}." for n, x, p in zip(people, things, towns, strict=True)]
    choices = [*towns, *rng.sample([place for place in PLACES if place not in towns], 2)]
    rng.shuffle(choices)
    return (" ".join(rng.sample(sentences, 2)), f"Where did {people[0]} put the {things[0]}?", choices,
            choices.index(towns[0]))


def fact(rng: Random, name: str, attribute: Attribute) -> tuple[str, list[str], int]:
    """(question, four values, which is right)."""
    right = WORLD.facts[name, attribute.name]
    choices = [right, *rng.sample([value for value in attribute.values if value != right], 3)]
    rng.shuffle(choices)
    return fact_question(rng, name, attribute), choices, choices.index(right)


def list_paragraph(rng: Random, cast: Sequence[str]) -> str:
    """A list and, for each of its letters, what it stands for, in either direction."""
    values = rng.choice([attribute.values for attribute in ATTRIBUTES] + [PLACES])
    choices = rng.sample(values, len(LETTERS))
    said = [rng.choice((f"{choice} is {letter}.", f"{letter} is {choice}."))
            for letter, choice in zip(LETTERS, choices, strict=True)]
    return f"{options(choices)}\n{' '.join(rng.sample(said, len(said)))}"


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
    passage, question, choices, right = story(rng, held_out=False)
    return f"{passage}\n{_led(rng, question, choices, right)}"


def _answered(question: str, choices: Sequence[str], right: int) -> str:
    return f"{asked(question, choices)} {LETTERS[right]}"


def _led(rng: Random, question: str, choices: Sequence[str], right: int) -> str:
    letter = _answered(question, choices, right)
    return letter if rng.random() < 0.5 else f"{question_answer(question, choices[right])}\n{letter}"
