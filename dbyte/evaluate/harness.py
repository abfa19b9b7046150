"""lm-evaluation-harness as one call for the teacher and for every student, offline and quiet.

The harness's own evaluator does the scoring; `lm_eval.simple_evaluate` is not used because around that evaluator it
reseeds torch, numpy and random of the process, asks git, and inspects the machine for seconds.
Errors are computed by `dbyte.evaluate.stats` from the per-item results, which are kept for paired comparison.
"""

import copy
import functools
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import lm_eval.api.task
import lm_eval.evaluator
import torch
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dbyte.distill.progress import told
from dbyte.evaluate.stats import proportion
from dbyte.kernels.fast import fast_products
from dbyte.text.spans import TokenBytes
from dbyte_tasks.column import HarnessTask, items_hash

CHOICES = "multiple_choice"  # the harness's output type of tasks that have some
FEWSHOT_SEED = 1234  # the harness's own default, which it sets only around the evaluator


@dataclass(frozen=True)
class ColumnResult:
    """What one model scored on one column; `correct` is 1 or 0 for each item, in the order of the column's items.

    margins: log P of the right choice less that of the best wrong one, in nats for each item; (): the task has no
    choices, or the harness does not number them, as where the contexts are what differs.
    """

    column: str
    metric: str
    accuracy: float
    stderr: float
    n: int
    chance: float
    correct: tuple[int, ...]
    items_hash: str
    margins: tuple[float, ...] = ()


def evaluate_tasks(lm: LM, tasks: Sequence[HarnessTask]) -> dict[str, ColumnResult]:
    """Score any lm_eval LM on tasks, MiniBench's or real ones; the results by task name, in the order asked for.

    ValueError for no tasks, two of one name, or an `lm` that is not an lm_eval LM; ConnectionError where a task's items
    are on the hub and it cannot be reached.
    """
    names = [task.name for task in tasks]
    if not isinstance(lm, LM):
        raise ValueError(f"expected an lm_eval LM, found {type(lm).__name__}: wrap a teacher with teacher_lm(...)")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"columns must be different names and at least one, found {names}")
    with _quiet():
        try:
            loaded = TaskManager(include_defaults=False).load([task.config for task in tasks])
        except ConnectionError as error:
            raise ConnectionError(f"the items of {', '.join(names)} are on the hub, which cannot be reached ({error}): "
                                  "give a folder with local files (--data DIR)") from error
        for task in loaded["tasks"].values():
            task.set_fewshot_seed(FEWSHOT_SEED)
        first = {task.name: list(range(min(task.limit, len(loaded["tasks"][task.name].eval_docs))))
                 for task in tasks if task.limit is not None}
        output = lm_eval.evaluator.evaluate(lm, loaded, samples=first or None, bootstrap_iters=0, log_samples=True)
    return {task.name: _result(task, output["samples"][task.name]) for task in tasks}


def correct_by_column(results: dict[str, ColumnResult]) -> dict[str, tuple[int, ...]]:
    """The per-item vectors by column, as the paired statistics of `dbyte.evaluate.stats` take them."""
    return {name: result.correct for name, result in results.items()}


def teacher_lm(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, batch_size: int = 32,
    device: str | torch.device = "cpu",
) -> "TeacherLM":
    """The harness's own Hugging Face adapter around a causal LM in memory, which it moves to `device`.

    Every text starts with the BOS token as in training (EOS where the tokenizer has none). The
    harness only asks the tokenizer to add it, which a tokenizer without a post-processor silently does not do: here
    a copy of the tokenizer is given one. ValueError if the tokenizer has neither BOS nor EOS.
    """
    bos = tokenizer.bos_token or tokenizer.eos_token
    if bos is None:
        raise ValueError("teacher_lm needs a tokenizer with a BOS or EOS token, found neither: set tokenizer.bos_token")
    number = tokenizer.convert_tokens_to_ids(bos)
    prefixed = copy.deepcopy(tokenizer)
    prefixed.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])
    with _quiet():  # it warns that a model in memory is not distributed
        lm = TeacherLM(pretrained=model.to(device).eval(), tokenizer=prefixed, backend="causal",
                       batch_size=batch_size, add_bos_token=True, prefix_token_id=number)
    lm.table = TokenBytes.from_tokenizer(tokenizer)
    return lm


class TeacherLM(HFLM):
    """The harness's adapter with lines of progress for its bars, and without a second BOS in rolling likelihoods.

    A text with a byte that the tokenizer has no token for, which it would leave out silently, is a ValueError.
    """

    table: TokenBytes
    batches: Iterator[int] = iter(())  # of the requests at work; each one taken may print a line
    read = 0.0  # bytes of the batch that is done

    def loglikelihood(self, requests, disable_tqdm=True):
        self._check(requests)
        return super().loglikelihood(requests, disable_tqdm=True)

    def generate_until(self, requests, disable_tqdm=True):
        self._check(requests)
        rows = Counter(str(request.args[1]) for request in requests)  # the harness mixes no arguments in a batch
        self._count(rows.values(), "the teacher's written batches")
        with fast_products():
            return super().generate_until(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests, disable_tqdm=True):
        self._check(requests)
        # HFLM encodes with BOS and then prepends its prefix token: the BOS itself would be scored after a BOS.
        self.add_bos_token = False
        try:
            return super().loglikelihood_rolling(requests, disable_tqdm=True)
        finally:
            self.add_bos_token = True

    def _loglikelihood_tokens(self, requests, disable_tqdm=True, override_bs=None):
        # Rows are texts without their last token: answers of one token share theirs.
        rows = {(*context, *answer[:-1]) for _, context, answer in requests}
        self._count([len(rows)], "the teacher's scored batches")
        self.read = sum(self.table.lengths[list(row)].sum() for row in rows) * self.batch_size / max(len(rows), 1)
        with fast_products():
            return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def _check(self, requests) -> None:
        for text in chain.from_iterable(request.args for request in requests):
            if isinstance(text, str):
                self.table.normalise(text)

    def _count(self, rows: Iterable[int], what: str) -> None:
        self.batches = told(range(sum(-(-each // self.batch_size) for each in rows)), what, lambda _: self.read)

    def _model_call(self, *arguments, **named):
        next(self.batches, None)
        return super()._model_call(*arguments, **named)

    def _model_generate(self, context, *arguments, **named):
        next(self.batches, None)
        written_RM = super()._model_generate(context, *arguments, **named)
        self.read = self.table.lengths.take(written_RM[:, context.shape[1]:].cpu(), mode="clip").sum()
        return written_RM


def _result(task: HarnessTask, samples: list[dict]) -> ColumnResult:
    ordered = sorted((sample for sample in samples if sample["filter"] == samples[0]["filter"]),
                     key=lambda sample: sample["doc_id"])
    correct = tuple(int(sample[task.metric]) for sample in ordered)
    share = proportion(correct)
    numbered = all(str(sample["target"]).isdigit() for sample in ordered)
    return ColumnResult(
        column=task.name, metric=task.metric, accuracy=share.value, stderr=share.stderr, n=share.n, chance=task.chance,
        correct=correct, items_hash=items_hash([sample["doc"] for sample in ordered]),
        margins=tuple(map(_margin, ordered)) if numbered and task.config.get("output_type") == CHOICES else (),
    )


def _margin(sample: dict) -> float:
    """By how many nats the right choice of an item is ahead of the best wrong one."""
    nats = [float(likelihood) for likelihood, _ in sample["filtered_resps"]]
    right = nats.pop(int(sample["target"]))
    return right - max(nats)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's log lines, progress bar and draws from the global `random`; its errors still show."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    bar = lm_eval.api.task.tqdm
    state = random.getstate()  # the harness draws task names that nobody reads
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = functools.partial(bar, disable=True)  # the bar of building requests has no other switch
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
        random.setstate(state)
