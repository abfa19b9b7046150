"""A token-trained teacher as a byte-level language model: the next byte after any bytes, and scores.

Four readings of its probabilities:

    "joint"      the byte and whether its token ends, along the tokens of the text          within_token.py
    "ends"       the byte or the end of the token, along the same tokens                    within_token.py
    "coverings"  the byte, whatever the tokens are; also after a cut word or character      coverings.py
    "beam"       an approximation of it, over all sequences of tokens                       beam.py

The first two are exact for the teacher along the tokens of the whole text, and their bytes add up to the score of these
tokens. The third is exact for texts.

Shape letters: R rows, S symbols.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dbyte.byte_probabilities import coverings, within_token
from dbyte.byte_probabilities.beam import Beam
from dbyte.byte_probabilities.encodings import Encodings
from dbyte.byte_probabilities.token_model import TokenTree, TreeReader
from dbyte.model.teacher import load_teacher
from dbyte.text.sorted_vocabulary import SortedVocabulary
from dbyte.text.spans import TokenBytes, utf8

READINGS = ("joint", "ends", "coverings", "beam")


@dataclass(frozen=True)
class Reading:
    """What a teacher says of a text, symbol by symbol.

    Both are on the CPU. log_prob_RS: fp32, normalised rows; the last one is of what follows the text. symbol_R: int64,
    the symbols of the text, one fewer.
    """

    log_prob_RS: Tensor
    symbol_R: Tensor

    @property
    def nats(self) -> float:
        """The log-probability of the text (<= 0), in fp64."""
        return self.log_prob_RS[:-1].gather(1, self.symbol_R[:, None]).double().sum().item()


class ByteTeacher:
    """A teacher of the families that `load_teacher` reads, with a byte-exact tokenizer."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        """Raises ValueError for a tokenizer that is not byte-exact, or belongs to a larger model."""
        self.model = model.eval()
        self.tokens = TokenBytes.from_tokenizer(tokenizer)
        self.vocabulary = SortedVocabulary(self.tokens.token_bytes, size=len(model.get_output_embeddings().weight))

    @classmethod
    def from_pretrained(cls, name: Path | str, *, device: str = "cpu") -> "ByteTeacher":
        """Load a folder or hub name; raises as `load_teacher`."""
        return cls(*load_teacher(name, device=device))

    @cached_property
    def encodings(self) -> Encodings:
        """The tokenizer's encodings of beginnings; made when first asked, which takes seconds."""
        return Encodings(self.tokens, self.vocabulary)

    @cached_property
    def sorted_head_VE(self) -> Tensor:
        """The head's weight in the vocabulary's order."""
        return self.model.get_output_embeddings().weight[self.vocabulary.id_V]

    def read(self, text: str | bytes, reading: str = "coverings", *, K: int = 10, epsilon: float = 0.01) -> Reading:
        """The distributions of a text's symbols; bytes may end anywhere, and need not be UTF-8.

        reading: one of READINGS; "joint" and "ends" take text, since only a whole text has tokens. K, epsilon: of the
        beam. Raises ValueError for an unknown reading, bytes where text is asked for, a byte that no token has, or a
        text longer than the model's positions.
        """
        if reading not in READINGS:
            raise ValueError(f"unknown reading {reading!r}: choose one of {', '.join(READINGS)}")
        if reading in ("joint", "ends"):
            return self._along_tokens(text, reading)
        data = self.bytes_of(text)
        if reading == "coverings":
            table_RS = coverings.log_probs(data, TreeReader(self.model), self.encodings)
        else:
            table_RS = self.beam(K=K, epsilon=epsilon).log_probs(data)
        return Reading(table_RS, torch.tensor(list(data), dtype=torch.long))

    def beam(self, *, K: int, epsilon: float) -> Beam:
        """A beam that has read nothing; ValueError for K or epsilon out of range."""
        return Beam(TreeReader(self.model), self.vocabulary, bos_token_id=self.tokens.bos_token_id, K=K,
                    epsilon=epsilon)

    def next_byte(self, prefix: str | bytes) -> Tensor:
        """Log-probabilities (fp32 [257]) of the byte after these, exact over coverings; symbol 256 ends the text.

        After the empty prefix they are those of a text's first byte, as the teacher gives them after BOS.
        """
        return self.read(prefix).log_prob_RS[-1]

    def score(self, texts: Sequence[str | bytes]) -> list[float]:
        """The log-probability of each text as a text's beginning, in nats, exact over coverings.

        Raises ValueError as `read`, and for one text in place of a list.
        """
        if isinstance(texts, str | bytes):
            raise ValueError(f"score expects a list of texts, found {type(texts).__name__}: put it into a list")
        return [self.read(text).nats for text in texts]

    def bytes_of(self, text: str | bytes) -> bytes:
        """The bytes of a text after the tokenizer's normaliser; bytes as they are; ValueError for anything else."""
        if not isinstance(text, str | bytes):
            raise ValueError(f"a text or prefix must be str or bytes, found {type(text).__name__} ({text!r})")
        return utf8(self.tokens.normalise(text)) if isinstance(text, str) else text

    @torch.inference_mode()
    def _along_tokens(self, text: str | bytes, alphabet: str) -> Reading:
        if not isinstance(text, str):
            raise ValueError(f"the reading {alphabet!r} is along the tokens of a text, found {type(text).__name__}: "
                             'decode it, or take the reading "coverings"')
        token_M = self.tokens.align(text).token_ids.tolist()
        tree = TokenTree(self.tokens.bos_token_id)
        for node, token in enumerate(token_M):
            tree.add(node, token, len(self.tokens.token_bytes[token]))
        table_RS = within_token.log_probs(TreeReader(self.model).hidden(tree), self.sorted_head_VE,
                                          [*token_M, self.tokens.eos_token_id], self.vocabulary, alphabet=alphabet)
        return Reading(table_RS.cpu(), within_token.symbols(token_M, self.vocabulary, alphabet=alphabet))
