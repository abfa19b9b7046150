"""CUTE (arXiv 2409.15452): does a model know how words are spelt? The group `cute`, 21 columns of its real items.

Items are the authors' files, DATA/cute/data/NAME.tsv (a clone of github.com/Leukas/CUTE at DATA/cute has them); seven
kinds also come with made-up words (NAME_rand). A question is asked as the authors ask it, after four worked examples
and with the answer in quotes, but in words of this project's own: scores compare between models here, not with the
paper's table. The answer is written, up to its closing quote, and matched exactly; case does not matter for tasks on
words, where the first word of a sentence may move. Guessing scores next to nothing, or half where two answers are
offered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dbyte.tasks.column import HarnessTask, at_least_one, harness_config


@dataclass(frozen=True)
class Question:
    """How a kind is asked: its rule, the question about inputs {0}, {1}, {2}, and four examples (inputs, answer)."""

    rule: str
    question: str
    worked: tuple[tuple[tuple[str, ...], str], ...]
    chance: float = 0.0
    ignore_case: bool = False

    def prompt(self, inputs: Sequence[str]) -> str:
        """The whole prompt, which ends with the quote that opens the answer."""
        shown = [f'Question: {self.question.format(*given)}\nAnswer: "{answer}"' for given, answer in self.worked]
        return "\n\n".join([self.rule, *shown, f'Question: {self.question.format(*inputs)}\nAnswer: "'])


QUESTIONS = {
    "spell": Question(
        "Spell a word out, with a space between its letters.", 'Spell the word "{0}".',
        ((("tree",), "t r e e"), (("garden",), "g a r d e n"), (("blue",), "b l u e"), (("summer",), "s u m m e r"))),
    "spell_inverse": Question(
        "Write the word that is spelt out.", 'Write the word "{0}".',
        ((("t r e e",), "tree"), (("g a r d e n",), "garden"), (("b l u e",), "blue"), (("s u m m e r",), "summer"))),
    "contains_char": Question(
        "Say whether a word has a letter.", 'Is there a "{0}" in "{1}"?',
        ((("t", "tree"), "Yes"), (("q", "garden"), "No"), (("e", "blue"), "Yes"), (("k", "summer"), "No")), chance=0.5),
    "contains_word": Question(
        "Say whether a sentence has a word.", 'Is there the word "{0}" in "{1}"?',
        ((("dog", "The dog sleeps."), "Yes"), (("rain", "We walk home."), "No"),
         (("open", "Please open the door."), "Yes"), (("green", "He sold his car."), "No")), chance=0.5),
    "orth": Question(
        "Say which of two words is spelt more like another.", 'Which is spelt more like "{0}": "{1}" or "{2}"?',
        ((("tree", "plant", "free"), "free"), (("garden", "harden", "park"), "harden"),
         (("blue", "colour", "glue"), "glue"), (("summer", "hummer", "winter"), "hummer")), chance=0.5),
    "sem": Question(
        "Say which of two words means more nearly what another means.",
        'Which means more nearly "{0}": "{1}" or "{2}"?',
        ((("tree", "plant", "free"), "plant"), (("garden", "harden", "park"), "park"),
         (("blue", "colour", "glue"), "colour"), (("summer", "hummer", "winter"), "winter")), chance=0.5),
    "ins_char": Question(
        "Write a letter behind every place where another letter stands in a word.",
        'Put "{0}" behind every "{1}" in "{2}".',
        ((("o", "t", "tree"), "toree"), (("x", "e", "tree"), "trexex"), (("a", "d", "garden"), "gardaen"),
         (("b", "m", "summer"), "sumbmber"))),
    "ins_word": Question(
        "Write a word behind every place where another word stands in a sentence.",
        'Put "{0}" behind every "{1}" in "{2}".',
        ((("old", "The", "The dog sleeps."), "The old dog sleeps."), (("slowly", "walk", "We walk home."),
          "We walk slowly home."), (("back", "the", "Please open the door."), "Please open the back door."),
         (("red", "his", "He sold his car."), "He sold his red car.")), ignore_case=True),
    "del_char": Question(
        "Leave a letter out of a word wherever it stands.", 'Leave out every "{0}" in "{1}".',
        ((("t", "tree"), "ree"), (("e", "tree"), "tr"), (("d", "garden"), "garen"), (("m", "summer"), "suer"))),
    "del_word": Question(
        "Leave a word out of a sentence wherever it stands.", 'Leave out every "{0}" in "{1}".',
        ((("sleeps", "The dog sleeps."), "The dog."), (("walk", "We walk home."), "We home."),
         (("open", "Please open the door."), "Please the door."), (("his", "He sold his car."), "He sold car.")),
        ignore_case=True),
    "sub_char": Question(
        "Replace a letter of a word by another wherever it stands.", 'Replace every "{0}" by "{1}" in "{2}".',
        ((("t", "f", "tree"), "free"), (("e", "o", "tree"), "troo"), (("d", "t", "garden"), "garten"),
         (("m", "p", "summer"), "supper"))),
    "sub_word": Question(
        "Replace a word of a sentence by another wherever it stands.", 'Replace every "{0}" by "{1}" in "{2}".',
        ((("dog", "cat", "The dog sleeps."), "The cat sleeps."), (("walk", "drive", "We walk home."), "We drive home."),
         (("door", "window", "Please open the door."), "Please open the window."),
         (("sold", "bought", "He sold his car."), "He bought his car.")), ignore_case=True),
    "swap_char": Question(
        "Exchange two letters of a word.", 'Exchange "{0}" and "{1}" in "{2}".',
        ((("t", "r", "tree"), "rtee"), (("b", "e", "blue"), "elub"), (("g", "n", "garden"), "nardeg"),
         (("s", "r", "summer"), "rummes"))),
    "swap_word": Question(
        "Exchange two words of a sentence.", 'Exchange "{0}" and "{1}" in "{2}".',
        ((("dog", "sleeps", "The dog sleeps."), "The sleeps dog."), (("We", "home", "We walk home."), "home walk We."),
         (("open", "door", "Please open the door."), "Please door the open."),
         (("sold", "his", "He sold his car."), "He his sold car.")), ignore_case=True),
}
MADE_UP = ("spell", "spell_inverse", "contains_char", "ins_char", "del_char", "sub_char", "swap_char")
CUTE_COLUMNS = (*QUESTIONS, *(f"{kind}_rand" for kind in MADE_UP))
WHERE = "cute/data/{}.tsv"


def cute_task(name: str, limit: int | None = None, *, data: Path | None) -> HarnessTask:
    """A column's first `limit` items (None: all), from the authors' file below the folder `data`.

    Raises ValueError for a limit below 1 or a damaged file, and FileNotFoundError for a missing one or no folder.
    """
    file = WHERE.format(name)
    if data is None or not (data / file).is_file():
        raise FileNotFoundError(f"{name}: looked in {data} for {file}")
    question = QUESTIONS[name.removesuffix("_rand")]
    rows = items(data / file, question)[: at_least_one(limit)]
    config = harness_config(name, lambda: rows, {
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ['"', "\n"], "do_sample": False, "max_gen_toks": 64},
    }, metric="exact_match", ignore_case=question.ignore_case)
    return HarnessTask(name, "exact_match", question.chance, config)


def items(path: Path, question: Question) -> list[dict]:
    """The items of a file as rows of prompt and answer; ValueError for a line with a wrong number of fields."""
    rows = []
    fields = len(question.worked[0][0]) + 1
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        cells = line.split("\t")
        if len(cells) != fields:
            raise ValueError(f"{path}, line {number}: expected {fields} fields, found {len(cells)}: get the file again")
        if number > 1:  # the first names the fields
            rows.append({"prompt": question.prompt(cells[:-1]), "answer": cells[-1]})
    if not rows:
        raise ValueError(f"{path} holds no items: get the file again")
    return rows
