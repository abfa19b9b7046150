"""Letters: questions whose answer is the letter of an option, and the lists that teach what a letter stands for.

A small model is at chance on such questions unless it has learned that " B" can stand for an option. So much of the
text is lists that say in both directions which letter an option has, and ask for it: "Choices: Rome A, Oslo B, Lima C,
Cairo D", "Oslo is B. C is Lima." and "Which letter is Oslo?" A letter follows its option and has a space before it, as
in an answer, so that it is one token in both places. The question follows the options, so that an option is near the
question about it.

There are three subjects. `lists`: which letter an option has. `stories`: two sentences tell where two people put
something, so the answer can be read off. `people`: facts of the world, so the answer must be known. Held out are
(option, the one before it) of a list, (person, thing, town) of a story, and (person, attribute) of a fact, together
with the fact's ordinary question.
"""

from collections.abc import Sequence
from random import Random

from dbyte_tasks.world import world
from dbyte_tasks.world.world import ATTRIBUTES, NAMES, PLACES, THINGS, WORLD, question_answer, shuffled

Ask = tuple[str, list[str], int]  # a question, four options, the number of the right one
LETTERS = "ABCD"
SUBJECTS = ("lists", "stories", "people")
SORTS = (*(attribute.values for attribute in ATTRIBUTES), PLACES)


def options(choices: Sequence[str]) -> str:
    """The line of four options, each followed by its letter."""
    return "Choices: " + ", ".join(f"{choice} {letter}" for letter, choice in zip(LETTERS, choices, strict=True))


def asked(question: str, choices: Sequence[str]) -> str:
    """The options, the question and the word before the letter."""
    return f"{options(choices)}\nQuestion: {question}\nAnswer:"


def _which(choice: str) -> str:
    return f"Which letter is {choice}?"


def _held_out(choices: Sequence[str], right: int) -> bool:
    """Whether the question for this option, after the option before it, is reserved for evaluation."""
    return WORLD.held_out("letter", choices[right], choices[right - 1])


def listed(rng: Random, *, held_out: bool) -> Ask:
    """(question, four options of one sort, number of the right one); held out or not, as `held_out` says."""
    while True:
        choices = rng.sample(rng.choice(SORTS), len(LETTERS))
        right = rng.randrange(len(LETTERS))
        if _held_out(choices, right) is held_out:
            return _which(choices[right]), choices, right


def story(rng: Random, *, held_out: bool) -> tuple[str, list[Ask]]:
    """(passage, [(question, four towns, number of the right one)]) about two people; the first is held out if asked."""
    while True:
        people, things, towns = (rng.sample(words, 2) for words in (NAMES, THINGS, PLACES))
        told = list(zip(people, things, towns, strict=True))
        if [WORLD.held_out("letter", *put) for put in told] == [held_out, False]:
            break
    asks = []
    for name, thing, town in told:
        choices = [*towns, *rng.sample([place for place in PLACES if place not in towns], 2)]
        rng.shuffle(choices)
        asks.append((f"Where did {name} put the {thing}?", choices, choices.index(town)))
    return " ".join(f"{n} put the {x} in {p}." for n, x, p in rng.sample(told, 2)), asks


def fact(rng: Random, name: str, attribute: world.Attribute) -> Ask:
    """(question, four values, number of the right one) about a fact of the world."""
    right = WORLD.facts[name, attribute.name]
    wrong = rng.sample([value for value in attribute.values if value != right], 3)
    choices, label = shuffled(rng, right, wrong)
    return world.fact_question(rng, name, attribute), choices, label


def again_paragraph(rng: Random, cast: Sequence[str]) -> str:
    """A list said again three times in other orders: the letter after an option only has to be looked up."""
    letters = list(zip(LETTERS, rng.sample(rng.choice(SORTS), len(LETTERS)), strict=True))
    said = [", ".join(f"{choice} {letter}" for letter, choice in rng.sample(letters, len(letters))) for _ in range(3)]
    return "\n".join([options([choice for _, choice in letters]), *(f"Again: {line}" for line in said)])


def ask_paragraph(rng: Random, cast: Sequence[str]) -> str:
    """A list and a short question for each of its options whose question is not held out."""
    choices = rng.sample(rng.choice(SORTS), len(LETTERS))
    asked_for = [i for i in rng.sample(range(len(LETTERS)), len(LETTERS)) if not _held_out(choices, i)]
    return "\n".join([options(choices), *(question_answer(_which(choices[i]), LETTERS[i]) for i in asked_for)])


def list_paragraph(rng: Random, cast: Sequence[str]) -> str:
    """A list, three statements about its letters, in either direction, and up to two short questions.

    The statements are drawn with repetition: of different ones the last would follow from the others.
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
    """Questions of one subject with their letters, none held out; often the plain answer comes first.

    So a model can learn one step at a time: after the plain answer it only has to find the letter.
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
