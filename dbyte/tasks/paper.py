"""The paper's eleven benchmarks (arXiv 2602.01007, Tables 1, 4 and 11): the group `paper`, under the paper's names.

Each is lm-evaluation-harness's own task, its configuration read from the installed harness, so prompts, metrics and
filters are those everybody reports. Items come from the hub, or from local files: FOLDER/SPLIT.jsonl with the hub's own
rows, one JSON object a line, or the layouts in which some benchmarks are passed around (the original authors' files,
llm-foundry's lines of query, choices and gold), whose records are turned into rows as the hub has them.

The paper names neither the number of worked examples (shots) nor metrics. Shots are the harness's defaults: five for
GSM8K, none for the others. acc_norm, which divides by a choice's length, is the metric of HellaS, ARC-C and OBQA, as in
H-Net's tables, and the paper's levels agree with it; the others have acc. MMLU is scored over all its questions at once
(its 57 subjects weigh by their questions, as in the harness's group), each after the line that names its subject.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os.path import commonprefix
from pathlib import Path

from dbyte.tasks.column import HarnessTask, at_least_one, datasets_of

SUBJECT = "The following are multiple choice questions (with answers) about {{subject|replace('_', ' ')}}.\n\n"
LETTERS = "ABCDEFGH"
Items = list[dict]


@dataclass(frozen=True)
class Layout:
    """Files in a data folder, and the function from their records (a list for each file) to rows."""

    files: tuple[str, ...]
    rows: Callable[..., Items]

    def read(self, data: Path) -> Items:
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

    stock: the harness's configuration, a path in its folder of tasks. layouts: of local files; the first found is read.
    shots: the local file of the worked examples that precede each question. by_subject: whether SUBJECT precedes it.
    """

    name: str
    stock: str
    metric: str
    chance: float
    layouts: tuple[Layout, ...]
    shots: Layout | None = None
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
            splits = {split: layout.read(data) for split, layout in self._found(data).items()}
            splits["test"] = splits["test"][:limit]  # the harness would prepare all, which takes seconds
            examples = "train" if self.shots else None
            config |= {"custom_dataset": lambda **_: datasets_of(splits), "dataset_path": None, "dataset_name": None,
                       "dataset_kwargs": None, "test_split": "test", "validation_split": None,
                       "training_split": examples, "fewshot_split": examples, "fewshot_config": None}
        return HarnessTask(self.name, self.metric, self.chance, config, at_least_one(limit))

    def rows(self, data: Path | None) -> Items:
        """All items that are asked, as rows; data and errors are those of `as_task`."""
        if data is not None:
            return self._found(data)["test"].read(data)
        from datasets import load_dataset

        config = self.as_task().config
        split = config.get("test_split") or config["validation_split"]
        return list(load_dataset(config["dataset_path"], config.get("dataset_name"), split=split))

    def _found(self, data: Path) -> dict[str, Layout]:
        """For each split the first layout whose files all exist; FileNotFoundError that lists what was looked for."""
        wanted = {"test": self.layouts} | ({"train": (self.shots,)} if self.shots else {})
        found = {split: layout for split, layouts in wanted.items() for layout in reversed(layouts)  # the first wins
                 if all((data / file).is_file() for file in layout.files)}
        if missing := [" or ".join(" with ".join(layout.files) for layout in layouts)
                       for split, layouts in wanted.items() if split not in found]:
            raise FileNotFoundError(f"{self.name}: looked in {data} for {', and for '.join(missing)}")
        return found


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


def lambada_pairs(given: Items) -> Items:
    """llm-foundry's context and last word as one text."""
    return [{"text": f"{row['context']} {row['continuation']}"} for row in given]


def piqa_with_labels(given: Items, labels: list[str]) -> Items:
    """The authors' rows and their file of labels, a line an item."""
    if len(given) != len(labels) or {*labels} - {"0", "1"}:
        raise ValueError(f"piqa has {len(given)} items but {len(labels)} labels, among them {sorted({*labels})[:3]}: "
                         "dev-labels.lst needs one label, 0 or 1, for each item of dev.jsonl")
    return [{field: row[field] for field in ("goal", "sol1", "sol2")} | {"label": int(label)}
            for row, label in zip(given, labels, strict=True)]


def queries(given: Items, *, field: str) -> Items:
    """llm-foundry's query / choices / gold; ARC's query begins with "Question: "."""
    rows = []
    for row in given:
        letters = list(LETTERS[: len(row["choices"])])
        rows.append({field: row["query"].removeprefix("Question: "), "answerKey": letters[row["gold"]],
                     "choices": {"text": row["choices"], "label": letters}})
    return rows


def winogrande_contexts(given: Items) -> Items:
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


def _hub(file: str, *names: str) -> Layout:
    """Rows as on the hub, of which these fields are kept."""
    return Layout((f"{file}.jsonl",), lambda given: [{name: row[name] for name in names} for row in given])


def _foundry(file: str, rows: Callable[[Items], Items]) -> Layout:
    return Layout((f"{file}.llm-foundry.jsonl",), rows)


ARC = ("question", "choices", "answerKey")
GSM8K = ("question", "answer")
HELLASWAG = ("activity_label", "ctx_a", "ctx_b", "endings", "label")
BENCHMARKS = {benchmark.name: benchmark for benchmark in (
    Benchmark("LMB", "lambada/lambada_openai.yaml", "acc", 0.0, (
        _hub("lambada/lambada_test", "text"),
        _foundry("lambada/lambada_openai", lambada_pairs), _hub("lambada/test", "text"))),
    Benchmark("HellaS", "hellaswag/hellaswag.yaml", "acc_norm", 0.25, (
        _hub("hellaswag/validation", *HELLASWAG), _hub("hellaswag/hellaswag_val", *HELLASWAG))),
    Benchmark("PIQA", "piqa/piqa.yaml", "acc", 0.5, (
        Layout(("piqa/dev.jsonl", "piqa/dev-labels.lst"), piqa_with_labels),
        _hub("piqa/validation", "goal", "sol1", "sol2", "label"))),
    Benchmark("ARC-E", "arc/arc_easy.yaml", "acc", 0.25, (
        _foundry("arc/arc_easy", partial(queries, field="question")), _hub("arc_easy/test", *ARC))),
    Benchmark("ARC-C", "arc/arc_challenge.yaml", "acc_norm", 0.25, (
        _foundry("arc/arc_challenge", partial(queries, field="question")), _hub("arc_challenge/test", *ARC))),
    Benchmark("WINO", "winogrande/default.yaml", "acc", 0.5, (
        _foundry("winogrande/winogrande", winogrande_contexts),
        _hub("winogrande/validation", "sentence", "option1", "option2", "answer"))),
    Benchmark("OBQA", "openbookqa/openbookqa.yaml", "acc_norm", 0.25, (
        _foundry("openbookqa/openbook_qa", partial(queries, field="question_stem")),
        _hub("openbookqa/test", "question_stem", "choices", "answerKey"))),
    Benchmark("MMLU", "mmlu/default/_default_template_yaml", "acc", 0.25, (
        _hub("mmlu/test", "question", "subject", "choices", "answer"),), by_subject=True),
    Benchmark("GSM8K", "gsm8k/gsm8k.yaml", "exact_match", 0.0, (_hub("gsm8k/test", *GSM8K),),
              shots=_hub("gsm8k/train", *GSM8K)),
    Benchmark("CSQA", "commonsense_qa/default.yaml", "acc", 0.2, (
        _hub("commonsense_qa/validation", "question", "choices", "answerKey"),)),
    Benchmark("SIQA", "siqa/siqa.yaml", "acc", 1 / 3, (
        _hub("siqa/validation", "context", "question", "answerA", "answerB", "answerC", "label"),)),
)}


def _stock(file: str) -> dict:
    """A task's configuration as the installed harness has it, without the tags that group tasks.

    The harness's loader is private, but its version is pinned; the public way scans thousands of files first.
    """
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(Path(lm_eval.tasks.__file__).parent / file, resolve_func=True)
    return {key: value for key, value in config.items() if key not in ("tag", "group")}
