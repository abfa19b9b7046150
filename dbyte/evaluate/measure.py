"""What is measured of a model on disk: MiniBench, bits per byte on held-out text, agreement of its boundaries.

The address of a measurement is a hash of what it depends on (the model's weights, how it is read, the items or
documents). It is kept in runs/measured/<hash>.json, so that no notebook measures again what another one has measured.

A reading says how a model is scored: "token" for a teacher; "stage1/tokenizer" and "stage1/router" for a student that
writes tokens, along the teacher's boundaries or its own; for one that writes bytes "stage2/router", the joint score,
and "stage2/own", that of JBP or MBP along the decoder's own boundaries (see score.py, score_own_boundaries.py).
Columns that are generated have another address where there is a compiler: compiled steps agree with plain ones within
rounding, so where two symbols nearly tie a text may differ. The address of scores does not depend on a compiler.

Shape letters: P pieces of text, N lengths of chunks in bytes, K kinds of positions.
"""

import json
import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from lm_eval.api.model import LM

from dbyte.atomic import atomic_write
from dbyte.distill.data import heldout_corpus
from dbyte.distill.runs import content_hash, model_hash, noted
from dbyte.evaluate.bits import bits_per_byte, heldout_pieces, student_scores, teacher_nats
from dbyte.evaluate.boundaries import Agreement, byte_rows
from dbyte.evaluate.boundary_kinds import Tally, passage_of, tally
from dbyte.evaluate.exposure import deviations, finished
from dbyte.evaluate.harness import ColumnResult, evaluate_tasks, teacher_lm
from dbyte.evaluate.likeness import likeness
from dbyte.evaluate.lm import READINGS, StudentLM
from dbyte.evaluate.noisy_lm import Noise, NoisyLM
from dbyte.evaluate.stats import clusters_in
from dbyte.model.student import ByteStudent
from dbyte.model.teacher import load_teacher, load_tokenizer
from dbyte.native.library import find_compiler
from dbyte.paths import RUNS
from dbyte.presets import Scale
from dbyte.text.corpus import Corpus
from dbyte.text.packing import Rows, document, pack
from dbyte.text.perturb import KINDS, perturb
from dbyte.text.spans import TokenBytes
from dbyte_tasks import minibench
from dbyte_tasks.column import Column, Marks, items_hash
from dbyte_tasks.cute import CuteColumn
from dbyte_tasks.paper import BENCHMARKS, Benchmark, data_folder

MEASURING = 1  # raise it when all measurements change, so that old ones are not used
# What the key of scores has beyond their reading; raised when the scores of that reading change.
SCORED = {"stage1/router": {"split": 2}, "stage2/own": {"own boundaries": 2}}
PROMPT_BYTES = 64  # of a document, before a decoder continues
SPLIT_BYTES = 160  # of a document, at each of whose bytes a prompt may end
CLEAN = "clean"  # text as it is
TEXTS = (CLEAN, *KINDS)  # and with each of the perturbations


@dataclass(frozen=True)
class Measurer:
    """Measures models at one scale and seed, and MiniBench on items of `drawn`; ValueError for an unknown reading."""

    scale: Scale
    seed: int
    drawn: int = 0

    def columns(
        self, folder: Path, reading: str, *, items: int | None = None, only: Sequence[str] | None = None,
        noise: Noise | None = None,
    ) -> dict[str, ColumnResult]:
        """Accuracy by column: of the scale's real benchmarks, or of MiniBench where it names none.

        items: of each column (None: the scale's), or all if it has fewer. only: the names of some columns. noise: of
        what the model is asked.
        """
        table = BENCHMARKS if self.scale.benchmarks else minibench.taught_by(name for name, _ in self.scale.corpora)
        return {name: self.column(folder, reading, table[name], items=items or self.scale.items, noise=noise)
                for name in self.scale.benchmarks or table if only is None or name in only}

    def column(
        self, folder: Path, reading: str, column: Column | Benchmark | CuteColumn, *, items: int,
        noise: Noise | None = None
    ) -> ColumnResult:
        """One column on its first `items` items, or all if it has fewer; with noise, of what the model is asked.

        The items of a column of the paper are from $DBYTE_DATA or the hub, those of CUTE from $DBYTE_DATA.
        """
        def answers() -> dict:
            lm = self._lm(folder, reading)
            return asdict(evaluate_tasks(NoisyLM(lm, noise) if noise else lm, [task])[task.name])

        if not isinstance(column, Column):
            data = data_folder()
            task = column.as_task(items, data=data)
            key = {"benchmark": column.name, "items": items_hash(column.rows(data)[:items])}
            together: Sequence[Hashable] = ()  # each item of a real benchmark is its own
        else:
            asked_for = min(items, column.available)
            task = column.as_task(items, seed=self.drawn)
            key = {"column": column.name, "items": items_hash(column.items(asked_for, seed=self.drawn))}
            together = column.clusters(asked_for, seed=self.drawn)
        asked = {name: value for name, value in task.config.items() if not callable(value)}
        written = "generation_kwargs" in asked
        if written and reading == "stage1/tokenizer":
            asked["prompts"] = "read along the tokenizer's boundaries"
        if written and reading != "token" and find_compiler() and self.scale.device == "cpu":
            asked["steps"] = "compiled"  # which may write another text where two symbols nearly tie
        key |= {"task": asked} | ({} if written else SCORED.get(reading, {}))
        if noise:
            key["noise"] = noise.describe()
        found = self._known(key, folder, reading, answers)  # margins are newer than the first files
        return ColumnResult(**found | {"correct": Marks.in_clusters(found["correct"], together),
                                       "margins": tuple(found.get("margins", ()))})

    def likeness(self, folder: Path, teacher: Path, corpus: str) -> dict:
        """How close a Stage-1 student is to its teacher on a corpus's held-out documents: what `likeness` returns."""
        texts = self._heldout(corpus)
        key = {"likeness": corpus, "text": texts.content_hash, "row_bytes": self.scale.row_bytes,
               "teacher": model_hash(teacher)}
        return self._known(key, folder, "stage1/tokenizer", lambda: self._likeness(folder, teacher, texts.documents))

    def bits(self, folder: Path, reading: str, corpus: str, noise: Noise | None = None) -> dict:
        """Bits per byte on a corpus's held-out documents: value, stderr, n (pieces), text_bytes, nats_P (per piece).

        At Stage 2 `folded` is the sum over flags in bits per byte: no probability, shown next to the score only. With
        noise, of the documents under it, along the tokens of those very texts where a reading has the tokenizer's.
        """
        texts = self._heldout(corpus)
        key = {"bits": corpus, "text": texts.content_hash, "row_bytes": self.scale.row_bytes}
        key |= SCORED.get(reading, {}) | ({"noise": noise.describe()} if noise else {})
        documents = [noise.of(text) if noise else text for text in texts.documents]
        return self._known(key, folder, reading, lambda: self._bits(folder, reading, documents))

    def boundaries(self, folder: Path, corpus: str, texts: Corpus | None = None) -> Agreement:
        """Agreement of a student's router with its teacher's tokens on a corpus's held-out documents, or on `texts`."""
        texts = texts or self._heldout(corpus)
        key = {"boundaries": corpus, "text": texts.content_hash, "row_bytes": self.scale.row_bytes}
        return Agreement(**self._known(key, folder, "stage1/router", lambda: asdict(
            tally(*self._rows(folder, texts.documents)).agreement())))

    def tally(self, folder: Path, corpus: str, noise: str = CLEAN) -> Tally:
        """What a student's router and its teacher's tokenizer do in a corpus's held-out documents, with noise or not.

        Of a text with noise the truth is the teacher's tokens of that very text. noise: one of TEXTS.
        """
        texts = [self._noisy(text, noise) for text in self._heldout(corpus).documents]
        key = {"tally": corpus, "noise": noise, "text": content_hash(texts), "row_bytes": self.scale.row_bytes}
        found = self._known(key, folder, "stage1/router", lambda: asdict(tally(*self._rows(folder, texts))))
        return Tally(np.array(found["counts_PK4"]),
                     {who: np.array(lengths_PN) for who, lengths_PN in found["lengths_PN"].items()})

    def passage(self, folder: Path, corpus: str, noise: str = CLEAN) -> list[dict]:
        """The beginning of a held-out document byte by byte, as `byte_rows`, with the keys corpus and text."""
        text = self._noisy(passage_of(self._heldout(corpus).documents), noise)
        found = self._known({"passage": text}, folder, "stage1/router", lambda: {"rows": byte_rows(
            *self._rows(folder, [text], whole=True))})
        return [{"corpus": corpus, "text": noise} | row for row in found["rows"]]

    def deviations(self, folder: Path, corpus: str) -> list[dict]:
        """How far a Stage-2 student's own boundaries deviate from its router's, after prompts of held-out text."""
        texts = self._heldout(corpus)
        sizes = {"rows": self.scale.items, "prompt_bytes": PROMPT_BYTES, "new_bytes": self.scale.row_bytes // 2}
        key = {"deviations": corpus, "text": texts.content_hash, "seed": self.seed} | sizes
        return self._known(key, folder, "stage2/own", lambda: {"bins": deviations(
            _student(folder, self.scale.device), map(str.encode, texts.documents), seed=self.seed, **sizes)})["bins"]

    def finished_words(self, folder: Path, reading: str, corpus: str) -> list[int]:
        """1 for each place inside a word of held-out text where the rest of the word is written, 0 for the others."""
        texts = self._heldout(corpus)
        documents = [text.encode()[:SPLIT_BYTES] for text in texts.documents[: max(self.scale.items // 25, 1)]]
        key = {"finished words": corpus, "text": texts.content_hash, "documents": len(documents), "bytes": SPLIT_BYTES}
        return self._known(key, folder, reading, lambda: {"right": finished(
            _student(folder, self.scale.device), documents, stage=READINGS[reading][0])})["right"]

    # -- what is measured, and remembered -----------------------------------------------------------------------------

    def _bits(self, folder: Path, reading: str, texts: list[str]) -> dict:
        pieces = heldout_pieces(texts, _token_bytes(folder), row_bytes=self.scale.row_bytes)
        if reading == "token":
            nats = teacher_nats(load_teacher(folder, device=self.scale.device)[0], pieces)
            return bits_per_byte(nats, pieces)
        lm = self._lm(folder, reading)
        scores = student_scores(lm.scorer, pieces, boundaries=lm.boundaries)
        found = bits_per_byte([-score.nats for score in scores], pieces)
        if reading == "stage2/router":
            found["folded"] = bits_per_byte([-score.folded_nats for score in scores], pieces)["value"]
        return found

    def _likeness(self, folder: Path, teacher: Path, texts: Sequence[str]) -> dict:
        student, rows = self._rows(folder, texts)
        return likeness(student, load_teacher(teacher, device=self.scale.device)[0], rows)

    def _lm(self, folder: Path, reading: str) -> LM:
        """The harness's view of a model under a reading."""
        if reading == "token":
            return teacher_lm(*load_teacher(folder, device=self.scale.device), device=self.scale.device)
        stage, boundaries = READINGS[reading]
        return StudentLM(_student(folder, self.scale.device), _token_bytes(folder), stage=stage, boundaries=boundaries)

    def _rows(self, folder: Path, texts: Sequence[str], *, whole: bool = False) -> tuple[ByteStudent, Rows]:
        """A student, and texts along its teacher's tokens in rows of the scale; whole: in rows of the longest text."""
        token_bytes = _token_bytes(folder)
        aligned = token_bytes.align_batch(token_bytes.spelled(texts))
        documents = [document(each, token_bytes) for each in aligned]
        rows = pack(documents, row_bytes=max(map(len, documents)) if whole else self.scale.row_bytes)
        return _student(folder, self.scale.device), rows

    def _heldout(self, corpus: str) -> Corpus:
        return heldout_corpus(self.scale, corpus, seed=self.seed)

    def _noisy(self, text: str, noise: str) -> str:
        return text if noise == CLEAN else perturb(text, noise, self.seed)

    def _known(self, key: dict, folder: Path, reading: str, compute: Callable[[], dict]) -> dict:
        """What was measured under this key, or what `compute` measures now; the file also says how long it took.

        And, as a run's notes do, who asked; and the run that made the model.
        """
        if reading not in ("token", *READINGS):
            raise ValueError(f"unknown reading {reading!r}: choose one of token, {', '.join(READINGS)}")
        full = {"measuring": MEASURING, "model": model_hash(folder), "reading": reading} | key
        path = RUNS / "measured" / f"{content_hash(full)[:16]}.json"
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            kept = {}  # never measured, or the file is damaged: measuring writes it again
        if kept.get("key") != full:
            started = time.monotonic()
            found = compute()
            found["seconds"] = time.monotonic() - started
            notes = noted(self.scale.name) | {"threads": torch.get_num_threads(), "run": _run_of(folder)}
            text = json.dumps({"key": full, "notes": notes, "found": found}, default=np.ndarray.tolist)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, text)
            kept = json.loads(text)  # as it will be when it is read from the file
        return {name: value for name, value in kept["found"].items() if name != "seconds"}


def _run_of(folder: Path) -> str:
    """The name of the run that a model's folder lies in, or ""."""
    parts = folder.relative_to(RUNS).parts if folder.is_relative_to(RUNS) else ()
    return parts[0] if parts else ""


@lru_cache(maxsize=1)
def _student(folder: Path, device: str) -> ByteStudent:
    return ByteStudent.from_pretrained(folder).eval().to(device)


@lru_cache(maxsize=4)
def _token_bytes(folder: Path) -> TokenBytes:
    return TokenBytes.from_tokenizer(load_tokenizer(folder))


def column_rows(model: str, results: dict[str, ColumnResult], **more) -> list[dict]:
    """MiniBench results as tidy rows in percent: model, task, value, stderr, n, clusters, chance, and `more`."""
    return [{"model": model, "task": name, "value": 100 * r.accuracy, "stderr": 100 * r.stderr, "n": r.n,
             "chance": 100 * r.chance, "metric": r.metric, "clusters": clusters_in({name: r.correct})} | more
            for name, r in results.items()]


def bits_row(model: str, corpus: str, found: dict) -> dict:
    """A bits-per-byte measurement as a tidy row."""
    return {"model": model, "corpus": corpus, "value": found["value"], "stderr": found["stderr"], "n": found["n"],
            "text_bytes": found["text_bytes"], "folded": found.get("folded", math.nan)}


def boundary_row(corpus: str, found: Agreement) -> dict:
    """A boundary agreement as a tidy row: F1 in percent, with precision and recall."""
    return {"corpus": corpus, "value": 100 * found.f1, "stderr": 100 * found.f1_stderr, "n": found.n,
            "precision": 100 * found.precision, "recall": 100 * found.recall}
