"""CUTE (arXiv 2409.15452): does a model know how words are spelt? The group `cute`, 21 columns of its real items.

Items are the authors' files, DATA/cute/data/NAME.tsv (a clone of github.com/Leukas/CUTE at DATA/cute has them); seven
kinds also come with made-up words (NAME_rand). A question is asked as the authors ask it, after four worked examples
and with the answer in quotes, but in words of this project's own: scores compare between models here, not with the
paper's table. The answer is written, up to its closing quote, and matched exactly; case does not matter for tasks on
words, where the first word of a sentence may move. Guessing scores next to nothing, or half where two answers are
offered.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dbyte_tasks.column import HarnessTask, at_least_one, harness_config


@dataclass(frozen=True)
class Question:
    """How a kind is asked: its rule, the question about inputs {0}, {1}, {2}, and four examples (inputs, answer)."""

    rule: str
    question: str
    worked: Sequence[tuple[Sequence[str], str]]
    chance: float = 0.0
    ignore_case: bool = False

    def prompt(self, inputs: Sequence[str]) -> str:
        """The whole prompt, which ends with the quote that opens the answer."""
        shown = [f'Question: {self.question.format(*given)}\nAnswer: "{answer}"' for given, answer in self.worked]
        return "\n\n".join([self.rule, *shown, f'Question: {self.question.format(*inputs)}\nAnswer: "'])


QUESTIONS = {name: Question(**fields) for name, fields in tomllib.loads(
    Path(__file__).with_name("cute.toml").read_text(encoding="utf-8")).items()}
MADE_UP = ("spell", "spell_inverse", "contains_char", "ins_char", "del_char", "sub_char", "swap_char")


@dataclass(frozen=True)
class CuteColumn:
    """A column of CUTE: a kind of question, asked of words or, where its name ends in _rand, of made-up words."""

    name: str

    def as_task(self, limit: int | None = None, *, data: Path | None) -> HarnessTask:
        """Its first `limit` items (None: all), from the authors' file below the folder `data`.

        Raises ValueError for a limit below 1 or a damaged file, and FileNotFoundError for a missing one or no folder.
        """
        rows = self.rows(data)[: at_least_one(limit)]
        question = self._question()
        config = harness_config(self.name, lambda: rows, {
            "output_type": "generate_until",
            "doc_to_text": "{{prompt}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ['"', "\n"], "do_sample": False, "max_gen_toks": 64},
        }, metric="exact_match", ignore_case=question.ignore_case)
        return HarnessTask(self.name, "exact_match", question.chance, config)

    def rows(self, data: Path | None) -> list[dict]:
        """All its items as rows of prompt and answer; ValueError for a line with a wrong number of fields."""
        file = f"cute/data/{self.name}.tsv"
        if data is None or not (data / file).is_file():
            raise FileNotFoundError(f"{self.name}: looked in {data} for {file}")
        question, path = self._question(), data / file
        rows = []
        fields = len(question.worked[0][0]) + 1
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            cells = line.split("\t")
            if len(cells) != fields:
                raise ValueError(f"{path}, line {number}: expected {fields} fields, found {len(cells)}: get the file "
                                 "again")
            if number > 1:  # the first names the fields
                rows.append({"prompt": question.prompt(cells[:-1]), "answer": cells[-1]})
        if not rows:
            raise ValueError(f"{path} holds no items: get the file again")
        return rows

    def _question(self) -> Question:
        return QUESTIONS[self.name.removesuffix("_rand")]


CUTE = {name: CuteColumn(name) for name in (*QUESTIONS, *(f"{kind}_rand" for kind in MADE_UP))}
