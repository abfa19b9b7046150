"""From a scale's corpora to packed rows on disk: tokenised by the teacher, aligned, packed, cached by content.

Some steps train on transformed text (appendix A.2 and A.3):

    trimmed     all white space removed: no boundary can lean on it (Trim Data)
    perturbed   each document as it is or under one of the five perturbations, all six equally likely (Table 8)
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np

from dbyte.distill.runs import content_hash
from dbyte.paths import RUNS
from dbyte.presets import Scale
from dbyte.text.contamination import texts_in, without_items
from dbyte.text.corpus import Corpus, load_corpus
from dbyte.text.packing import LEAST_ROW_BYTES, MAX_ROW_BYTES, Document, Rows, document, pack
from dbyte.text.perturb import KINDS, perturb
from dbyte.text.spans import TokenBytes
from dbyte_tasks.paper import BENCHMARKS, data_folder

WANTED = ("A scale's training text must hold no item of its benchmarks: set $DBYTE_DATA to a folder that has their "
          "items (docs/evaluation.md), or leave the column out of `benchmarks`")
PACKING = 1  # raise it when packing or alignment changes what rows hold
DOCUMENTS_AT_ONCE = 512


def training_corpora(scale: Scale, *, seed: int) -> list[Corpus]:
    """The training split of each corpus of a scale, in the scale's amounts, without items of its benchmarks."""
    corpora = [(load_corpus if ":" in name else _built_in)(name, split="train", seed=seed, max_bytes=amount)
               for name, amount in scale.corpora]
    return [_clean(corpus, scale.benchmarks, data_folder()) for corpus in corpora] if scale.benchmarks else corpora


@lru_cache(maxsize=8)
def _clean(corpus: Corpus, benchmarks: tuple[str, ...], data: Path | None) -> Corpus:
    """A corpus without the items of benchmarks in the folder `data`; a plan of runs asks several times."""
    try:
        items = tuple(benchmark_texts(benchmarks))
    except OSError as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ConnectionError
        raise kind(f"{error}. {WANTED}") from error
    return replace(corpus, documents=without_items(corpus.documents, items, name=corpus.name))


def check_data(scale: Scale) -> None:
    """Raise ValueError for rows of an impossible size or an unknown benchmark, before any text is read.

    FileNotFoundError lists what $DBYTE_DATA lacks of the benchmarks' items, where it is set.
    """
    if not LEAST_ROW_BYTES <= scale.row_bytes <= MAX_ROW_BYTES:
        raise ValueError(f"scale {scale.name}: row_bytes must lie in {LEAST_ROW_BYTES}..{MAX_ROW_BYTES}, found "
                         f"{scale.row_bytes}")
    if unknown := [name for name in scale.benchmarks if name not in BENCHMARKS]:
        raise ValueError(f"scale {scale.name}: benchmarks has an unknown column {unknown[0]!r}: choose from "
                         f"{', '.join(BENCHMARKS)}")
    if scale.benchmarks and (data := data_folder()):
        missing = [said for name in scale.benchmarks if (said := BENCHMARKS[name].missing(data))]
        if missing:
            raise FileNotFoundError(f"{'; '.join(missing)}. {WANTED}")


def benchmark_texts(names: Sequence[str]) -> Iterator[str]:
    """Every string of every item of benchmarks, from $DBYTE_DATA or the hub."""
    for name in names:
        yield from texts_in(BENCHMARKS[name].rows(data_folder()))


@lru_cache(maxsize=4)
def _built_in(name: str, **arguments: object) -> Corpus:
    """A corpus that no file can change: an ablation asks for the same ones dozens of times."""
    return load_corpus(name, **arguments)


def mixed_texts(corpora: list[Corpus], *, seed: int) -> list[str]:
    """All documents of the corpora in one seeded order."""
    texts = [text for corpus in corpora for text in corpus.documents]
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))]


def packed_rows(
    texts: list[str], token_bytes: TokenBytes, *, row_bytes: int, source: str, positions: int | None = None
) -> Rows:
    """Align and pack texts into rows, or load them if they were packed before.

    source: hash of the texts; the file's name is a hash of it, the tokenizer and the sizes of `pack`.
    """
    described = {"packing": PACKING, "source": source, "tokens": token_bytes.content_hash,
                 "tokenizer": token_bytes.backend.to_str() if token_bytes.backend else None, "row_bytes": row_bytes}
    if positions is not None and positions < row_bytes:
        described["positions"] = positions
    path = RUNS / "data" / f"rows-{content_hash(described)[:16]}.safetensors"
    if path.exists():
        try:
            return Rows.load(path)
        except ValueError as error:
            print(f"{error}; the rows are packed again", flush=True)
    rows = pack(documents(token_bytes.spelled(texts), token_bytes), row_bytes=row_bytes, positions=positions)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.save(path)
    return rows


def documents(texts: Sequence[str], token_bytes: TokenBytes) -> Iterator[Document]:
    """The document of each text, aligned DOCUMENTS_AT_ONCE texts at a time; raises as `TokenBytes.align`."""
    for start in range(0, len(texts), DOCUMENTS_AT_ONCE):
        for aligned in token_bytes.align_batch(texts[start : start + DOCUMENTS_AT_ONCE]):
            yield document(aligned, token_bytes)


def training_rows(scale: Scale, token_bytes: TokenBytes, *, seed: int, positions: int | None = None) -> Rows:
    """The packed training rows of a scale, for a core of so many positions (None: no limit)."""
    corpora = training_corpora(scale, seed=seed)
    source = content_hash([corpus.content_hash for corpus in corpora] + [seed])
    return packed_rows(mixed_texts(corpora, seed=seed), token_bytes, row_bytes=scale.row_bytes, source=source,
                       positions=positions)


def trimmed(text: str, seed: int) -> str:
    """The text without white space, Unicode's included; the seed draws nothing here."""
    return "".join(text.split())


def perturbed(text: str, seed: int) -> str:
    """The text under a perturbation that is drawn by seed and text, or as it is."""
    kind = Random(f"perturbed {seed} {text}").choice((None, *KINDS))
    return text if kind is None else perturb(text, kind, seed)


TRANSFORMS = {"trimmed": trimmed, "perturbed": perturbed}


def transformed_rows(
    scale: Scale, transform: str, token_bytes: TokenBytes, *, seed: int, max_bytes: int, positions: int | None = None
) -> Rows:
    """Packed rows of a scale's training documents under one of TRANSFORMS, `max_bytes` of them or a little more.

    The labels are the teacher's tokens of the transformed text. ValueError for an unknown transform, and at a scale
    that streams its corpora.
    """
    if transform not in TRANSFORMS:
        raise ValueError(f"unknown transform of text {transform!r}: choose one of {', '.join(TRANSFORMS)}")
    if scale.streamed:
        raise ValueError(f"scale {scale.name!r} streams its corpora, and only rows in memory can be transformed "
                         f"({transform!r}): choose smoke or small, or a scale with streamed=False")
    corpora = training_corpora(scale, seed=seed)
    texts = []
    total = 0
    for text in mixed_texts(corpora, seed=seed):
        if total >= max_bytes:
            break
        texts.append(TRANSFORMS[transform](text, seed))
        total += len(texts[-1].encode())
    source = content_hash([transform, max_bytes, seed] + [corpus.content_hash for corpus in corpora])
    return packed_rows(texts, token_bytes, row_bytes=scale.row_bytes, source=source, positions=positions)


def heldout_corpus(scale: Scale, name: str, *, seed: int) -> Corpus:
    """Held-out documents of one corpus of a scale."""
    return load_corpus(name, split="heldout", seed=seed, max_bytes=scale.heldout_bytes)
