"""The teacher's distribution over the next byte, at every byte of rows: read while training, or before and kept.

    coverings    exact over all encodings of the text so far
    beam         BLD's approximation of it: K states, and those with less than epsilon of the beam are dropped
    joint        along the teacher's own tokens, whether a token ends folded away: one forward pass, but it knows that
                 no token has ended within the last one (Marathe et al., arXiv 2609.12303, call it Marginalize-It)

Of the 257 symbols (256 bytes, END) the likeliest are kept, as fp16 probabilities. What is left over is one more symbol
of the divergence, so nothing is renormalised. Both ways give the same numbers, bit for bit.

Shape letters: B rows, L bytes, P bytes of a document, K symbols that are kept, S = 257 symbols, R bytes of tokens.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dbyte.atomic import atomic_write
from dbyte.byte_probabilities import ByteTeacher, within_token
from dbyte.distill.losses import has_next
from dbyte.distill.progress import told
from dbyte.distill.terms import language_model
from dbyte.kernels.fast import fast_products
from dbyte.text.packing import Batch, Rows
from dbyte.text.spans import BOS, EOS
from dbyte.transfer.spans import END

READINGS = ("coverings", "beam", "joint")
SHARD_ROWS = 64
SCHEMA = 1  # of shards; raise it when what they hold changes
Kept = tuple[Tensor, Tensor]  # symbols, int16 [.., L, K], and their probabilities, fp16; zeros at BOS and padding


@dataclass(frozen=True)
class ByteReading:
    """How a teacher is read: one of READINGS, the beam's K and epsilon, and how many of 257 symbols are kept."""

    name: str = "coverings"
    K: int = 10
    epsilon: float = 0.01
    kept: int = 16

    def __post_init__(self) -> None:
        if self.name not in READINGS or not 1 <= self.kept <= END + 1:
            raise ValueError(f"a reading of bytes is one of {', '.join(READINGS)} and keeps 1 to {END + 1} symbols, "
                             f"found {self.name!r} and {self.kept}")

    def describe(self) -> dict:
        """What decides the numbers, as plain data."""
        return asdict(self) if self.name == "beam" else {"name": self.name, "kept": self.kept}

    def of_rows(self, teacher: ByteTeacher, rows: Sequence[Batch]) -> Kept:
        """The likeliest symbols of batches of one row each."""
        found = []
        for row in rows:
            top = self.table(teacher, row).topk(self.kept)
            is_read_L1 = ((row.document_BL >= 0) & (row.byte_ids_BL != BOS))[0, :, None].cpu()
            found.append((top.indices.short() * is_read_L1, (top.values.exp() * is_read_L1).half()))
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))

    @torch.no_grad()
    def table(self, teacher: ByteTeacher, row: Batch) -> Tensor:
        """Log-probabilities at each byte of one row (fp32 [L, S]); EOS is END, BOS and padding have zeros."""
        byte_L, document_L = row.byte_ids_BL[0].cpu(), row.document_BL[0].cpu()
        table_LS = torch.zeros(len(byte_L), END + 1)
        # what is kept must not depend on the caller's precision and products
        with fast_products(), torch.autocast(row.byte_ids_BL.device.type, enabled=False):
            if self.name == "joint":
                table_LS[(document_L >= 0) & (byte_L != BOS)] = _along_tokens(teacher, row).cpu()
                return table_LS
            for number in range(int(document_L.max()) + 1):
                place_P = (document_L == number).nonzero()[1:, 0]
                data = bytes(byte_L[place_P].tolist()).removesuffix(bytes([EOS]))
                found = teacher.read(data, self.name, K=self.K, epsilon=self.epsilon)
                table_LS[place_P] = found.log_prob_RS[: len(place_P)].cpu()
        return table_LS


def _along_tokens(teacher: ByteTeacher, row: Batch) -> Tensor:
    """The rows [R, S] of all bytes but BOS."""
    predicts_M = has_next(row.token_document_BM)[0]
    next_T = row.token_ids_BM.roll(-1, 1)[0, predicts_M].tolist()
    joint_R2 = within_token.log_probs(language_model(teacher.model, row)[0, predicts_M], teacher.sorted_head_VE,
                                      next_T, teacher.vocabulary).exp()
    byte_RS = torch.nn.functional.pad(joint_R2[:, :END] + joint_R2[:, END:], (0, 1))
    byte_RS[:, END] = byte_RS[:, EOS]  # there, special tokens are the byte EOS
    byte_RS[:, EOS] = 0
    return byte_RS.log()


class WhileTraining:
    """Reads the rows of each batch when they are trained on."""

    def __init__(self, reading: ByteReading, tokenizer: PreTrainedTokenizerBase):
        self.reading = reading
        self.tokenizer = tokenizer
        self._teacher: ByteTeacher | None = None

    def __call__(self, model: PreTrainedModel, batch: Batch) -> Kept:
        """The targets of a batch of the teacher's tokens, on its device."""
        if self._teacher is None or self._teacher.model is not model:
            self._teacher = ByteTeacher(model, self.tokenizer)
        return tuple(part.to(model.device) for part in self.reading.of_rows(self._teacher, batch.split(1)))


@dataclass(frozen=True)
class Shards:
    """Targets of the teacher's rows on disk, SHARD_ROWS rows a file, each written in full or not at all.

    address: a hash of what they are computed from; a file of another address is not read.
    """

    folder: Path
    address: str
    rows: Rows

    def complete(self, reading: ByteReading, make_teacher: Callable[[], ByteTeacher]) -> None:
        """Compute the shards that are missing or damaged, which is said; a teacher is made only if there are any."""
        missing = [number for number in range(-(-len(self.rows) // SHARD_ROWS)) if not self._is_sound(number)]
        teacher = make_teacher() if missing else None
        for number in told(missing, "shards of byte targets"):
            which = range(number * SHARD_ROWS, min((number + 1) * SHARD_ROWS, len(self.rows)))
            rows = [self.rows.batch([row]).to(teacher.model.device) for row in which]
            symbol, prob = reading.of_rows(teacher, rows)
            sealed = save({"symbol": symbol, "prob": prob}, metadata=self._seal(symbol, prob))
            atomic_write(self._path(number), sealed)

    def __call__(self, numbers: Sequence[int]) -> Kept:
        """The targets of these rows."""
        found = []
        for number, place in (divmod(int(row), SHARD_ROWS) for row in numbers):
            with safe_open(self._path(number), framework="pt") as file:
                found.append([file.get_slice(name)[place] for name in ("symbol", "prob")])
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def _seal(self, *tensors: Tensor) -> dict[str, str]:
        """What a shard says of itself; one entry, for the order of several is not fixed."""
        digest = hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors))
        return {"dbyte.byte_targets": f"{SCHEMA} {self.address} {digest.hexdigest()}"}

    def _is_sound(self, number: int) -> bool:
        path = self._path(number)
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                sound = file.metadata() == self._seal(file.get_tensor("symbol"), file.get_tensor("prob"))
        except (SafetensorError, OSError):
            sound = False
        if not sound:
            print(f"{path} is damaged; it is computed again", flush=True)
        return sound
