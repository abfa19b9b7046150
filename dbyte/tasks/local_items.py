"""Items of the real benchmarks in local files, turned into rows as the hub has them, so that one task reads both.

A layout names the files that it needs in a data folder, and says how their records become rows. Items are read in the
layouts in which they are passed around (the original authors' files, llm-foundry's lines of query, choices and gold),
and every benchmark also from FOLDER/SPLIT.jsonl with the hub's own rows, one JSON object a line.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path

LETTERS = "ABCDEFGH"
Rows = list[dict]


@dataclass(frozen=True)
class Layout:
    """Files in a data folder, and the function from their records (a list for each file) to rows."""

    files: tuple[str, ...]
    rows: Callable[..., Rows]

    def found(self, data: Path) -> bool:
        """Whether all its files exist."""
        return all((data / file).is_file() for file in self.files)

    def read(self, data: Path) -> Rows:
        """The rows; ValueError that names the file if records are damaged or lack a field, or if there are none."""
        try:
            rows = self.rows(*(records(data / file) for file in self.files))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"{data / self.files[0]} does not hold the records expected there "
                             f"({type(error).__name__}: {error}): compare it with docs/evaluation.md") from error
        if not rows:
            raise ValueError(f"{data / self.files[0]} holds no records: give the whole file")
        return rows


def records(path: Path) -> list:
    """The lines of a file: parsed if it is .jsonl, else as they are; ValueError for a line that is no JSON object."""
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    if path.suffix != ".jsonl":
        return [line.strip() for line in lines]
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, is no JSON ({error}): get the file again") from error
    return found


def first_found(name: str, layouts: Sequence[Layout], data: Path) -> Layout:
    """The first layout whose files all exist; FileNotFoundError that lists what was looked for."""
    for layout in layouts:
        if layout.found(data):
            return layout
    wanted = " or ".join(" with ".join(layout.files) for layout in layouts)
    raise FileNotFoundError(f"{name}: looked in {data} for {wanted}")


def hub_rows(*fields: str) -> Callable[[Rows], Rows]:
    """A function that keeps these fields of rows which already are as on the hub."""
    return lambda given: [{field: row[field] for field in fields} for row in given]


def lambada_pairs(given: Rows) -> Rows:
    """llm-foundry's context and last word as one text."""
    return [{"text": f"{row['context']} {row['continuation']}"} for row in given]


def piqa_with_labels(given: Rows, labels: list[str]) -> Rows:
    """The authors' rows and their file of labels, a line an item."""
    if len(given) != len(labels):
        raise ValueError(f"piqa has {len(given)} items but {len(labels)} labels: the two files do not belong together")
    return [{field: row[field] for field in ("goal", "sol1", "sol2")} | {"label": int(label)}
            for row, label in zip(given, labels, strict=True)]


def arc_queries(given: Rows) -> Rows:
    """llm-foundry's query / choices / gold, whose query begins with "Question: "."""
    return [{"question": row["query"].removeprefix("Question: ")} | _lettered(row) for row in given]


def openbookqa_queries(given: Rows) -> Rows:
    """llm-foundry's query / choices / gold."""
    return [{"question_stem": row["query"]} | _lettered(row) for row in given]


def winogrande_contexts(given: Rows) -> Rows:
    """llm-foundry's two contexts and one continuation as a sentence with a gap.

    The gap begins where the contexts differ. Names may begin alike; the two full texts are the same nevertheless.
    """
    rows = []
    for row in given:
        shared = commonprefix(row["context_options"])
        first, second = (context[len(shared):] for context in row["context_options"])
        rows.append({"sentence": f"{shared}_ {row['continuation']}", "option1": first, "option2": second,
                     "answer": str(row["gold"] + 1)})
    return rows


def _lettered(row: dict) -> dict:
    choices = row["choices"]
    return {"choices": {"text": choices, "label": list(LETTERS[: len(choices)])}, "answerKey": LETTERS[row["gold"]]}
