"""The paper's eleven benchmarks (arXiv 2602.01007, Tables 1, 4 and 11): the group `paper`, under the paper's names.

Each is lm-evaluation-harness's own task, its configuration read from the installed harness, so prompts, metrics and
filters are those everybody reports. Items come from the hub, or from local files: FOLDER/SPLIT.jsonl with the hub's own
rows, one JSON object per line, or the layouts in which some benchmarks are distributed (the original authors' files,
llm-foundry's lines of query, choices and gold), whose records are turned into rows as the hub has them.

The paper names neither the number of worked examples (shots) nor metrics. Shots are the harness's defaults: five for
GSM8K, none for the others. acc_norm, which divides by a choice's length, is the metric of HellaS, ARC-C and OBQA, as in
H-Net's tables, and the paper's levels agree with it; the others have acc. MMLU is scored over all its questions at once
(its 57 subjects weigh by their questions, as in the harness's group), each after the line that names its subject.
"""

import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path

from dbyte_tasks.column import HarnessTask, at_least_one, datasets_of

SUBJECT = "The following are multiple choice questions (with answers) about {{subject|replace('_', ' ')}}.\n\n"
LETTERS = "ABCDEFGH"
FOUNDRY = ".llm-foundry.jsonl"  # how the name of a file of llm-foundry's records ends
Items = list[dict]


def records(path: Path) -> list:
    """The lines of a file: parsed if it is .jsonl, else as they are; ValueError for a line that is no JSON object."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            try:
                found.append(json.loads(line) if path.suffix == ".jsonl" else line.strip())
            except ValueError as error:
                raise ValueError(f"{path}, line {number}, is no JSON ({error}): get the file again") from error
    return found


@dataclass(frozen=True)
class Benchmark:
    """A column of the paper.

    stock: the harness's configuration, a path in its folder of tasks. fields: those of the hub's rows that are kept.
    layouts: each a list of local files that are read together; the first whose files all exist is read. shots: the
    layout of the worked examples that precede each question. by_subject: whether SUBJECT precedes it.
    """

    name: str
    stock: str
    metric: str
    chance: float
    fields: Sequence[str]
    layouts: Sequence[Sequence[str]]
    shots: Sequence[str] = ()
    by_subject: bool = False

    def as_task(self, limit: int | None = None, *, data: Path | None = None) -> HarnessTask:
        """The benchmark's first `limit` items (None: all), from the folder `data` or from the hub (None).

        Raises ValueError for a damaged file or a limit below 1, and FileNotFoundError that lists the missing files.
        """
        stock = _stock(self.stock)
        config = {"num_fewshot": 0} | stock | {"task": self.name}
        if self.by_subject:
            config |= {"dataset_name": "all", "doc_to_text": SUBJECT + stock["doc_to_text"]}
        if data is not None:
            splits = {split: self.read(data, files) for split, files in self._found(data).items()}
            splits["test"] = splits["test"][:limit]  # the harness would prepare all, which takes seconds
            examples = "train" if self.shots else None
            config |= {"custom_dataset": lambda **_: datasets_of(splits), "dataset_path": None, "dataset_name": None,
                       "dataset_kwargs": None, "test_split": "test", "validation_split": None,
                       "training_split": examples, "fewshot_split": examples, "fewshot_config": None}
        return HarnessTask(self.name, self.metric, self.chance, config, at_least_one(limit))

    def rows(self, data: Path | None) -> Items:
        """All items that are asked, as rows; data and errors are those of `as_task`."""
        if data is not None:
            return self.read(data, self._found(data)["test"])
        from datasets import load_dataset

        config = self.as_task().config
        split = config.get("test_split") or config["validation_split"]
        return list(load_dataset(config["dataset_path"], config.get("dataset_name"), split=split))

    def read(self, data: Path, files: Sequence[str]) -> Items:
        """The rows that the files of a layout hold: records, and where there are two files a label for each.

        Raises ValueError that names the file if records are damaged or lack a field, or if there are none.
        """
        try:
            rows = records(data / files[0])
            if len(files) > 1:
                rows = with_labels(rows, records(data / files[1]))
            if files[0].endswith(FOUNDRY):
                rows = [from_foundry(row, self.fields[0]) for row in rows]
            rows = [{field: row[field] for field in self.fields} for row in rows]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"{data / files[0]} does not hold the records expected there "
                             f"({type(error).__name__}: {error}): compare it with docs/evaluation.md") from error
        if not rows:
            raise ValueError(f"{data / files[0]} holds no records: give the whole file")
        return rows

    def _found(self, data: Path) -> dict[str, Sequence[str]]:
        """For each split the first layout whose files all exist; FileNotFoundError that lists what was looked for."""
        if missing := self.missing(data):
            raise FileNotFoundError(missing)
        return {split: next(files for files in layouts if _all_there(data, files))  # the first wins
                for split, layouts in self._layouts().items()}

    def missing(self, data: Path) -> str:
        """What was looked for in the folder `data` and is not there, as a sentence; "" where all items are there."""
        missing = [" or ".join(" with ".join(files) for files in layouts) for layouts in self._layouts().values()
                   if not any(_all_there(data, files) for files in layouts)]
        return f"{self.name}: looked in {data} for {', and for '.join(missing)}" if missing else ""

    def _layouts(self) -> dict[str, Sequence[Sequence[str]]]:
        return {"test": self.layouts} | ({"train": [self.shots]} if self.shots else {})


def _all_there(data: Path, files: Sequence[str]) -> bool:
    return all((data / file).is_file() for file in files)


def data_folder() -> Path | None:
    """The folder of local items that $DBYTE_DATA names; None where it is unset: the hub.

    Raises FileNotFoundError if there is no such folder.
    """
    if not (named := os.environ.get("DBYTE_DATA")):
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"$DBYTE_DATA names {named!r}, which is no folder: name one with items as in "
                                "docs/evaluation.md, or unset it to read them from the hub")
    return folder


def with_labels(given: Items, labels: list[str]) -> Items:
    """PIQA's rows with their labels from a second file, one line per item, as its authors distribute them."""
    if len(given) != len(labels) or {*labels} - {"0", "1"}:
        raise ValueError(f"piqa has {len(given)} items but {len(labels)} labels, among them {sorted({*labels})[:3]}: "
                         "dev-labels.lst needs one label, 0 or 1, for each item of dev.jsonl")
    return [row | {"label": int(label)} for row, label in zip(given, labels, strict=True)]


def from_foundry(given: dict, field: str) -> dict:
    """llm-foundry's record as a row of the hub, whose text or question stands under `field`.

    A query, which ARC begins with "Question: ", has choices. Two contexts of one continuation are a sentence with a gap
    that begins where they differ; names may begin alike, and the two full texts are the same nevertheless. A context
    and its last word are one text.
    """
    if "query" in given:
        letters = list(LETTERS[: len(given["choices"])])
        return {field: given["query"].removeprefix("Question: "), "answerKey": letters[given["gold"]],
                "choices": {"text": given["choices"], "label": letters}}
    if "context_options" in given:
        shared = commonprefix(given["context_options"])
        first, second = (context[len(shared):] for context in given["context_options"])
        return {field: f"{shared}_ {given['continuation']}", "option1": first, "option2": second,
                "answer": str(given["gold"] + 1)}
    return {field: f"{given['context']} {given['continuation']}"}


BENCHMARKS = {name: Benchmark(name, **each) for name, each in tomllib.loads(
    Path(__file__).with_name("paper.toml").read_text(encoding="utf-8")).items()}


def _stock(file: str) -> dict:
    """A task's configuration as the installed harness has it, without the tags that group tasks.

    The harness's loader is private, but its version is pinned; the public way scans thousands of files first.
    """
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(Path(lm_eval.tasks.__file__).parent / file, resolve_func=True)
    return {key: value for key, value in config.items() if key not in ("tag", "group")}
