"""On-policy distillation (section 5.3): the student writes, and its teacher judges every token (on_policy_loss.py).

`OnPolicyFeed` gives the one loop its batches: for each update it lets the student as it is now continue some prompts.
Whose completions are judged is a mixture (`presets.OnPolicy`): the student's; the teacher's of the same prompts, a
control in which only the writer differs; and rows of corpus text. Samples are a function of the weights, the seed and
the number of the update, so a resumed run writes what it would have written.

A prompt is read along the router's boundaries and ends where a token ends. The tokenizer reads prompt and completion
one by one, so that they have this end in common. The labels of Eq. 4 are the tokenizer's boundaries.

Shape letters: B rows, L bytes.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dbyte.decode.engine import Engine
from dbyte.decode.sampling import equal_before
from dbyte.decode.trajectories import DEGENERATE, Sample, student_writes, teacher_writes
from dbyte.distill.data import training_rows
from dbyte.distill.loader import Feed
from dbyte.distill.on_policy_loss import Judged, Side, spans
from dbyte.distill.prompts import load_prompts
from dbyte.distill.runs import content_hash
from dbyte.model.student import ByteStudent
from dbyte.presets import OnPolicy, Scale
from dbyte.text.chat import ChatTemplate
from dbyte.text.packing import Batch, Rows, padded
from dbyte.text.spans import BOS, EOS, Aligned, TokenBytes

SAMPLING = 1  # raise it when samples change that were drawn from the same weights and seeds
OWN = {"own_boundary": np.bool_, "own_ids": np.int64, "routed": np.bool_, "judged": np.bool_}


@dataclass
class OnPolicyFeed:
    """Batches of samples, as `Feed` gives batches of rows; `watch` must come first.

    prompts: aligned, without BOS. corpus: rows of `policy.row_bytes` bytes, None where the mixture has none. told: what
    a log shows of the last batch, see `told`. engine: makes what computes a student's steps while it writes; compiled
    steps are faster, and may draw other tokens where two are all but equal.
    """

    policy: OnPolicy
    prompts: list[Aligned]
    token_bytes: TokenBytes
    seed: int
    corpus: Feed | None = None
    told: dict = field(default_factory=dict)
    engine: Callable[[ByteStudent], Engine] = Engine

    def __post_init__(self):
        self.batch_rows = self.policy.rows
        self.row_bytes = self.policy.row_bytes

    def watch(self, student: ByteStudent, teacher: PreTrainedModel) -> None:
        """Name the models that write."""
        self._student = student
        self._teacher = teacher

    def batch(self, update: int, *, part: int = 0, parts: int = 1) -> Judged:
        """The rows of an update, or the part-th of `parts` shares of them; ValueError if parts does not divide them."""
        if self.batch_rows % parts:
            raise ValueError(f"an update has {self.batch_rows} prompts, which {parts} processes cannot share equally: "
                             "choose a number of processes that divides it")
        began = time.monotonic()
        prompts = [self._prompt(update * self.batch_rows + row) for row in range(self.batch_rows)]
        repeats = equal_before([bytes(prompt.byte_ids.tolist()) for prompt in prompts])
        mine = range(part, self.batch_rows, parts)
        of_teacher = round(self.policy.teacher_share * self.batch_rows)
        of_corpus = round(self.policy.corpus_share * self.batch_rows)
        by_teacher = [row for row in mine if row < of_teacher]
        by_student = [row for row in mine if of_teacher <= row < self.batch_rows - of_corpus]
        samples = self._write(prompts, by_teacher, repeats, update, "teacher")
        own = self._write(prompts, by_student, repeats, update, "student")
        seconds = time.monotonic() - began
        samples |= own
        made = [self._row(prompts[row], samples[row]) for row in sorted(samples)]
        numbers = self.corpus.row_numbers(update) if of_corpus else ()
        made += [self._corpus_row(number) for place, number in enumerate(numbers)
                 if self.batch_rows - of_corpus + place in mine]
        batch = judged_batch(made)
        self.told = {"sampling_seconds": round(seconds, 3), **told(batch, list(own.values()))}
        return batch

    def describe(self) -> dict:
        """What decides the rows next to the weights: the prompts and the corpus; the policy is a part of the step."""
        ids = [prompt.byte_ids.tolist() for prompt in self.prompts]
        return {"on_policy": SAMPLING, "prompts": content_hash(ids), "tokens": self.token_bytes.content_hash,
                "corpus": None if self.corpus is None else self.corpus.describe()}

    def follow(self, facts: dict) -> None:
        """Begin with the first prompt and the first row of the corpus, whatever was read before."""

    def state(self) -> dict:
        """What a checkpoint must keep next to the update's number: nothing."""
        return {}

    def restore(self, state: dict, update: int) -> None:
        """Resume from a checkpoint; prompts and draws are those of the update's number."""

    def close(self) -> None:
        """Release nothing."""

    def _prompt(self, number: int) -> Aligned:
        """The prompt of this number in a seeded order, anew in each pass."""
        passed, place = divmod(number, len(self.prompts))
        order = np.random.default_rng([self.seed, passed]).permutation(len(self.prompts))
        return self.prompts[order[place]]

    def _write(self, prompts: list[Aligned], rows: list[int], repeats: list[int], update: int, who: str
               ) -> dict[int, Sample]:
        """The samples of one writer by row."""
        if not rows:
            return {}
        digest = hashlib.sha256(f"{self.seed} {update}".encode()).digest()
        how = dict(new_bytes=self.policy.new_bytes, temperature=self.policy.temperature,
                   seed=int.from_bytes(digest[:6]), repeats=[repeats[row] for row in rows])
        if who == "teacher":
            ids = [[self.token_bytes.bos_token_id, *prompts[row].token_ids.tolist()] for row in rows]
            found = teacher_writes(self._teacher, self._student, ids, **how)
        else:
            texts = [bytes(prompts[row].byte_ids.tolist()) for row in rows]
            found = student_writes(self._student, texts, engine=self.engine(self._student), **how)
        return dict(zip(rows, found, strict=True))

    def _row(self, prompt: Aligned, sample: Sample) -> dict[str, np.ndarray]:
        """A document of a prompt and a completion as one row: the arrays of `Rows`, and those of OWN."""
        text = sample.text.removesuffix(bytes([EOS]))
        ended = len(sample.text) > len(text)
        ends = np.array(sample.ends, dtype=np.int64) - 1
        own = np.zeros(len(sample.text), dtype=bool)
        own[ends] = True
        ids = np.zeros(len(sample.text), dtype=np.int64)
        ids[ends] = sample.token_ids
        aligned = self._read(text)
        if aligned is None:  # the tokenizer writes this text in another way, so the teacher reads what was drawn
            boundary, tokens = own, list(sample.token_ids)
        else:
            boundary = np.concatenate([aligned.boundary.numpy(), [True] * ended])
            tokens = [*aligned.token_ids.tolist(), *[self.token_bytes.eos_token_id] * ended]
        before = 1 + len(prompt.byte_ids)
        arrays = {
            "byte_ids": np.array([BOS, *prompt.byte_ids.tolist(), *sample.text], dtype=np.uint8),
            "boundary": np.concatenate([[True], prompt.boundary.numpy(), boundary]).astype(bool),
            "token_ids": np.array([self.token_bytes.bos_token_id, *prompt.token_ids.tolist(), *tokens], dtype=np.int32),
            "own_boundary": np.concatenate([np.isin(np.arange(before), (0, before - 1)), own]),
            "own_ids": np.concatenate([np.zeros(before, dtype=np.int64), ids]),
        }
        place = np.arange(len(arrays["byte_ids"]))
        return arrays | {"document": np.zeros(len(place), dtype=np.int16), "judged": place >= before,
                         "routed": (place > 0) & (place < before - 1)}

    def _read(self, text: bytes) -> Aligned | None:
        """A completion in the tokenizer's tokens; None if its normaliser would change the text."""
        written = text.decode()
        return self.token_bytes.align(written) if self.token_bytes.normalise(written) == written else None

    def _corpus_row(self, number: int) -> dict[str, np.ndarray]:
        """A row of the corpus, as if the tokenizer's tokens had been written."""
        rows = self.corpus.rows
        row = {name: getattr(rows, name)[number] for name in ("byte_ids", "boundary", "document")}
        row["token_ids"] = rows.token_ids[number][rows.token_ids[number] >= 0]
        ids = np.zeros(len(row["byte_ids"]), dtype=np.int64)
        ids[row["boundary"]] = row["token_ids"]
        return row | {"own_boundary": row["boundary"], "own_ids": ids, "routed": np.zeros(len(ids), dtype=bool),
                      "judged": (row["document"] >= 0) & (row["byte_ids"] != BOS)}


def on_policy_feed(
    scale: Scale, policy: OnPolicy, tokenizer: PreTrainedTokenizerBase, *, seeds: tuple[int, int], positions: int
) -> OnPolicyFeed:
    """The feed of a policy, by the seeds of student and teacher.

    Raises ValueError where a sample may not fit the core's positions, for a share of a corpus that is streamed, and as
    `load_prompts`.
    """
    if policy.row_bytes > positions:
        raise ValueError(f"scale {scale.name}: on_policy: prompt_bytes and new_bytes may make {policy.row_bytes} "
                         f"chunks, and the core was built for {positions} positions: lower one of them")
    token_bytes = TokenBytes.from_tokenizer(tokenizer)
    corpus = None
    if of_corpus := round(policy.corpus_share * policy.rows):
        if scale.streamed:
            raise ValueError(f"scale {scale.name} streams its corpora, and only rows in memory can be mixed with "
                             "samples: set on_policy.corpus_share to 0, or streamed to false")
        rows = training_rows(replace(scale, row_bytes=policy.row_bytes), token_bytes, seed=seeds[1],
                             positions=positions)
        corpus = Feed(rows, of_corpus, seeds[0])
    chat = ChatTemplate.from_tokenizer(tokenizer, token_bytes) if policy.chat else None
    prompts = load_prompts(scale, policy, token_bytes, chat)
    return OnPolicyFeed(policy, prompts, token_bytes, seed=seeds[0], corpus=corpus)


def judged_batch(rows: list[dict[str, np.ndarray]]) -> Judged:
    """Rows of any lengths as one batch, padded to the longest."""
    joined = {name: padded([row[name] for row in rows]) for name in rows[0]}
    own = {f"{name}_BL": torch.from_numpy(joined.pop(name).astype(kind)) for name, kind in OWN.items()}
    batch: Batch = Rows(**joined).batch(range(len(rows)))
    own["own_ids_BL"].clamp_(min=0)
    return Judged(**vars(batch), **own)


def told(batch: Judged, samples: list[Sample]) -> dict[str, float]:
    """What a log shows of a batch and the student's samples in it.

    length: mean bytes of a sample. empty, repeating, endless: shares of the samples. coverage: the share of judged
    bytes in spans. in_full: the share of judged tokens that are spans by themselves. boundary_f1: of the ends of the
    tokens that were written, against the tokenizer's.
    """
    own, other = Side.of(batch.own_boundary_BL, batch), Side.of(batch.boundary_BL, batch)
    single_S = spans(own, other, batch)
    covered_BL = batch.common_BL.flip(1).cummax(1).values.flip(1) & batch.judged_BL
    found = {"coverage": int(covered_BL.sum()) / max(int(batch.judged_BL.sum()), 1),
             "in_full": int(single_S.sum()) / max(len(own.span_T), 1),
             "boundary_f1": 2 * len(single_S) / max(len(own.span_T) + len(other.span_T), 1)}
    if samples:
        kinds = Counter(one.kind for one in samples)
        found |= {"length": sum(len(one.text) for one in samples) / len(samples),
                  **{kind: kinds[kind] / len(samples) for kind in DEGENERATE}}
    return found
