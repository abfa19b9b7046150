"""Speed of tokenising with alignment, and of packing rows from text, next to the tokenizer's own encode_batch.

    python benchmarks/alignment.py          writes benchmarks/alignment.md

All calls get equal texts and one tokenizer and are timed in turn in one process. The tokenizer's own calls are
encode_batch, which also makes character offsets, and encode_batch_fast, which does not and which alignment uses. Two
byte-level BPE tokenizers like those of published teachers are trained here. `rows` packs the aligned texts; `stream`
does all that a lane does: it also reads the texts from a parquet folder, leaves out held-out texts and drops copies.
"""

import tempfile
from operator import truediv
from pathlib import Path
from statistics import median

import pandas as pd
from measuring import begin, interleaved, machine, write
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dbyte.distill.teacher import PATTERN
from dbyte.text.corpus import load_corpus
from dbyte.text.packing import document, pack
from dbyte.text.spans import TokenBytes
from dbyte.text.stream import Lane, source_of

CORPORA = ("pydocs", "world")
SIZE = 300_000
VOCABULARY = 8000
ROW_BYTES = 8192
ROUNDS = 5
OWN = ("encode_batch", "encode_batch_fast")
KINDS = {  # pattern, normaliser, whether whole words go before merges
    "like Llama 3": (PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|"), None, True),
    "like Qwen": (PATTERN, normalizers.NFC(), False),
}


def tokenizer(kind: str, texts: list[str]) -> TokenBytes:
    pattern, normaliser, ignore_merges = KINDS[kind]
    backend = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if normaliser is not None:
        backend.normalizer = normaliser
    return TokenBytes.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>"))


def calls(texts: list[str], token_bytes: TokenBytes, folder: Path) -> dict:
    """What is timed; every call goes through all the texts."""
    folder.mkdir()
    pd.DataFrame({"text": texts}).to_parquet(folder / "train-00000-of-00001.parquet", row_group_size=1000)
    source = source_of(f"hub:{folder}", seed=0)
    backend = token_bytes.backend

    def rows() -> None:
        pack((document(each, token_bytes) for each in token_bytes.align_batch(texts)), row_bytes=ROW_BYTES)

    def stream() -> None:
        lane = Lane([source], [1], lane=0, lanes=1, token_bytes=token_bytes, row_bytes=ROW_BYTES, seed=0,
                    announced={(source.name, 1)})
        while lane.state()["positions"][0]["pass"] == 0:
            lane.next_row()

    stream()  # the dataset is opened once and kept
    return {"encode_batch": lambda: backend.encode_batch(texts, add_special_tokens=False),
            "encode_batch_fast": lambda: backend.encode_batch_fast(texts, add_special_tokens=False),
            "align": lambda: token_bytes.align_batch(texts), "rows": rows, "stream": stream}


def main() -> None:
    begin()
    texts = {name: list(load_corpus(name, max_bytes=SIZE).documents) for name in CORPORA}
    every = [text for each in texts.values() for text in each]
    lines = [f"Tokenising with alignment next to the tokenizer's own calls, {SIZE:,} bytes a corpus, vocabulary "
             f"{VOCABULARY}, rows of {ROW_BYTES} bytes. {machine()}; {ROUNDS} rounds in turn, medians over rounds of "
             "the rate and of its ratio to each of the tokenizer's own in the same round.", "",
             "| tokenizer | corpus | documents | call | MB/s | of encode_batch | of encode_batch_fast |",
             "|---|---|---:|---|---:|---:|---:|"]
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            token_bytes = tokenizer(kind, every)
            for name in CORPORA:
                timed = interleaved(calls(texts[name], token_bytes, Path(folder) / f"{kind} {name}"), rounds=ROUNDS)
                size = sum(len(text.encode()) for text in texts[name]) / 1e6
                for call, seconds in timed.items():
                    shares = [median(map(truediv, timed[own], seconds)) for own in OWN]
                    lines.append(f"| {kind} | {name} | {len(texts[name])} | {call} | {size / median(seconds):.2f} | "
                                 + " | ".join(f"{share:.2f}" for share in shares) + " |")
    write(Path(__file__).with_suffix(".md"), "\n".join(lines))


if __name__ == "__main__":
    main()
