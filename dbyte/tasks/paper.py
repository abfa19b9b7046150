"""The paper's eleven benchmarks (arXiv 2602.01007, Tables 1, 4 and 11): the group `paper`, under the paper's names.

Each is lm-evaluation-harness's own task, its configuration read from the installed harness, so prompts, metrics and
filters are those everybody reports. Items come from the hub, or from local files in the layouts of `local_items.py`.

The paper names neither the number of worked examples (shots) nor metrics. Shots are the harness's defaults: five for
GSM8K, none for the others. acc_norm, which divides by a choice's length, is the metric of HellaS, ARC-C and OBQA, as in
H-Net's tables, and the paper's levels agree with it; the others have acc. MMLU is scored over all its questions at once
(its 57 subjects weigh by their questions, as in the harness's group), each after the line that names its subject.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dbyte.tasks import local_items
from dbyte.tasks.column import HarnessTask, datasets_of
from dbyte.tasks.local_items import Layout, first_found, hub_rows

SUBJECT = "The following are multiple choice questions (with answers) about {{subject|replace('_', ' ')}}.\n\n"


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
        """The benchmark's first `limit` items (None: all), from local files in `data`, or from the hub if it is None.

        Raises FileNotFoundError where a file is missing, ValueError where one is damaged or the limit is below 1.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1 item a column, got {limit}")
        stock = _stock(self.stock)
        config = {"num_fewshot": 0} | stock | {"task": self.name}
        if self.by_subject:
            config |= {"dataset_name": "all", "doc_to_text": SUBJECT + stock["doc_to_text"]}
        config |= {} if data is None else self._local(data)
        return HarnessTask(self.name, self.metric, self.chance, config, limit)

    def looked_for(self, data: Path) -> list[str]:
        """What is missing in `data`, as sentences; empty if nothing is."""
        missing = []
        needed = [self.layouts] if self.shots is None else [self.layouts, (self.shots,)]
        for layouts in needed:
            try:
                first_found(self.name, layouts, data)
            except FileNotFoundError as error:
                missing.append(str(error))
        return missing

    def _local(self, data: Path) -> dict:
        splits = {"test": first_found(self.name, self.layouts, data).read(data)}
        if self.shots is not None:
            splits["train"] = first_found(self.name, (self.shots,), data).read(data)
        examples = "train" if self.shots else None
        return {"custom_dataset": lambda **_: datasets_of(splits), "dataset_path": None, "dataset_name": None,
                "dataset_kwargs": None, "test_split": "test", "validation_split": None, "training_split": examples,
                "fewshot_split": examples, "fewshot_config": None}


def _hub(folder: str, split: str, *fields: str) -> Layout:
    return Layout((f"{folder}/{split}.jsonl",), hub_rows(*fields))


def _foundry(file: str, rows) -> Layout:
    return Layout((f"{file}.llm-foundry.jsonl",), rows)


ARC = ("question", "choices", "answerKey")
GSM8K = ("question", "answer")
HELLASWAG = ("activity_label", "ctx_a", "ctx_b", "endings", "label")
BENCHMARKS = {benchmark.name: benchmark for benchmark in (
    Benchmark("LMB", "lambada/lambada_openai.yaml", "acc", 0.0, (
        Layout(("lambada/lambada_test.jsonl",), hub_rows("text")),
        _foundry("lambada/lambada_openai", local_items.lambada_pairs), _hub("lambada", "test", "text"))),
    Benchmark("HellaS", "hellaswag/hellaswag.yaml", "acc_norm", 0.25, (
        _hub("hellaswag", "validation", *HELLASWAG), _hub("hellaswag", "hellaswag_val", *HELLASWAG))),
    Benchmark("PIQA", "piqa/piqa.yaml", "acc", 0.5, (
        Layout(("piqa/dev.jsonl", "piqa/dev-labels.lst"), local_items.piqa_with_labels),
        _hub("piqa", "validation", "goal", "sol1", "sol2", "label"))),
    Benchmark("ARC-E", "arc/arc_easy.yaml", "acc", 0.25, (
        _foundry("arc/arc_easy", local_items.arc_queries), _hub("arc_easy", "test", *ARC))),
    Benchmark("ARC-C", "arc/arc_challenge.yaml", "acc_norm", 0.25, (
        _foundry("arc/arc_challenge", local_items.arc_queries), _hub("arc_challenge", "test", *ARC))),
    Benchmark("WINO", "winogrande/default.yaml", "acc", 0.5, (
        _foundry("winogrande/winogrande", local_items.winogrande_contexts),
        _hub("winogrande", "validation", "sentence", "option1", "option2", "answer"))),
    Benchmark("OBQA", "openbookqa/openbookqa.yaml", "acc_norm", 0.25, (
        _foundry("openbookqa/openbook_qa", local_items.openbookqa_queries),
        _hub("openbookqa", "test", "question_stem", "choices", "answerKey"))),
    Benchmark("MMLU", "mmlu/default/_default_template_yaml", "acc", 0.25, (
        _hub("mmlu", "test", "question", "subject", "choices", "answer"),), by_subject=True),
    Benchmark("GSM8K", "gsm8k/gsm8k.yaml", "exact_match", 0.0, (_hub("gsm8k", "test", *GSM8K),),
              shots=_hub("gsm8k", "train", *GSM8K)),
    Benchmark("CSQA", "commonsense_qa/default.yaml", "acc", 0.2, (
        _hub("commonsense_qa", "validation", "question", "choices", "answerKey"),)),
    Benchmark("SIQA", "siqa/siqa.yaml", "acc", 1 / 3, (
        _hub("siqa", "validation", "context", "question", "answerA", "answerB", "answerC", "label"),)),
)}


def paper_tasks(
    names: Sequence[str] = tuple(BENCHMARKS), limit: int | None = None, *, data: Path | None = None
) -> list[HarnessTask]:
    """The named benchmarks, with their first `limit` items each, from the folder `data` or from the hub (None).

    Raises ValueError for an unknown name or a limit below 1, and FileNotFoundError that lists all missing files.
    """
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise ValueError(f"unknown benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}")
    if data is not None:
        missing = [line for name in names for line in BENCHMARKS[name].looked_for(data)]
        if missing:
            raise FileNotFoundError("local items are missing; " + "; ".join(missing) + ". Leave such a column out, put "
                                    "its file there, or leave --data out to read from the hub")
    return [BENCHMARKS[name].as_task(limit, data=data) for name in names]


def present(data: Path) -> list[str]:
    """The names of the benchmarks whose files are all in a folder."""
    return [name for name, benchmark in BENCHMARKS.items() if not benchmark.looked_for(data)]


def _stock(file: str) -> dict:
    """A task's configuration as the installed harness has it, without the tags that group tasks.

    The harness's loader is private, but its version is pinned; the public way scans thousands of files first.
    """
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(Path(lm_eval.tasks.__file__).parent / file, resolve_func=True)
    return {key: value for key, value in config.items() if key not in ("tag", "group")}
