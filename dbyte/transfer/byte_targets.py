"""The teacher's distribution over the next byte, at every byte of rows: read when a row is trained on, or kept on disk.

    coverings    exact over all encodings of the text so far
    beam         BLD's approximation of it: K states, and those with less than epsilon of the beam are dropped
    joint        along the teacher's own tokens, whether a token ends folded away: one forward pass, but it knows that
                 no token has ended within the last one (Marathe et al., arXiv 2609.12303, call it Marginalize-It)

Of the 257 symbols (256 bytes, END) the likeliest are kept. What is left over is one more symbol of the divergence, so
nothing is renormalised. Rows are read one by one: whenever that is, they give the same numbers, bit for bit.

Shape letters: B rows, L bytes, P bytes of a document, K symbols that are kept, S = 257 symbols, R bytes of
tokens, K2 joint symbols.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dbyte.byte_probabilities import ByteTeacher
from dbyte.distill.along_tokens import symbols_of
from dbyte.distill.progress import told
from dbyte.distill.runs import atomic_dir, content_hash, is_sound, model_hash
from dbyte.distill.terms import language_model
from dbyte.kernels.fast import fast_products
from dbyte.paths import RUNS
from dbyte.text.packing import Batch, Rows
from dbyte.text.spans import BOS, EOS
from dbyte.transfer.heads import END

READINGS = {"coverings": {}, "beam": {"K": 10, "epsilon": 0.01}, "joint": {}}  # and their settings, the paper's
CHANGED = {"coverings": {"since": "2026-12-01"}}  # its numbers are others since then, so are the addresses of its runs
KEPT = 16  # symbols of a distribution
SHARD_ROWS = 64
Targets = tuple[Tensor, Tensor]  # symbols, int16 [.., L, K], and their probabilities, fp16; 0 at BOS and padding


def described(reading: str) -> dict:
    """What decides the numbers of a reading, as plain data."""
    return {"name": reading, "kept": KEPT} | READINGS[reading] | CHANGED.get(reading, {})


@dataclass(frozen=True)
class ByteTargets:
    """What a teacher says of the bytes of rows of its tokens; it is loaded when it is first asked.

    place, device: of the teacher, as `load_teacher` reads it.
    """

    place: Path | str
    rows: Rows
    reading: str
    device: str = "cpu"

    @cached_property
    def teacher(self) -> ByteTeacher:
        """The teacher, loaded."""
        return ByteTeacher.from_pretrained(self.place, device=self.device)

    def __call__(self, numbers: Iterable[int]) -> Targets:
        """The likeliest symbols at the bytes of these rows, on the CPU."""
        return _stacked(self._of_row(int(number)) for number in numbers)

    def _of_row(self, number: int) -> Targets:
        row = self.rows.batch([number]).to(self.teacher.model.device)
        top = byte_table(self.teacher, row, self.reading).topk(KEPT)
        return top.indices.short(), top.values.exp().half()


@torch.no_grad()
def byte_table(teacher: ByteTeacher, row: Batch, reading: str) -> Tensor:
    """Log-probabilities at each byte of one row (fp32 [L, S]); EOS is END, BOS and padding have -inf."""
    byte_L, document_L = row.byte_ids_BL[0].cpu(), row.document_BL[0].cpu()
    table_LS = torch.full((len(byte_L), END + 1), -torch.inf)
    with fast_products():  # always, so that numbers do not depend on the caller's products
        if reading == "joint":
            table_LS[(document_L >= 0) & (byte_L != BOS)] = _along_tokens(teacher, row).cpu()
            return table_LS
        for number in range(int(document_L.max()) + 1):
            place_P = (document_L == number).nonzero()[1:, 0]
            data = bytes(byte_L[place_P].tolist()).removesuffix(bytes([EOS]))
            table_LS[place_P] = teacher.read(data, reading, **READINGS[reading]).log_prob_RS[: len(place_P)].cpu()
    return table_LS


def _along_tokens(teacher: ByteTeacher, row: Batch) -> Tensor:
    """The rows [R, S] of all bytes but BOS."""
    hidden_BME = language_model(teacher.model, row)
    joint_RK2 = symbols_of(teacher.model, hidden_BME, row, teacher.vocabulary).exp()
    byte_RS = F.pad(joint_RK2[:, :END] + joint_RK2[:, END:], (0, 1))
    byte_RS[:, END] = byte_RS[:, EOS]  # there, special tokens are the byte EOS
    byte_RS[:, EOS] = 0
    return byte_RS.log()


@dataclass(frozen=True)
class Shards:
    """Targets on disk, SHARD_ROWS rows a folder, each written in full or not at all."""

    targets: ByteTargets

    @cached_property
    def folder(self) -> Path:
        """Where they are: a hash of what they are computed from."""
        targets = self.targets
        address = content_hash([model_hash(Path(targets.place)), targets.rows.hash, described(targets.reading)])
        return RUNS / "data" / f"targets-{address[:16]}"

    def complete(self) -> "Shards":
        """These shards, once those are computed that are missing or damaged, which is said."""
        rows = len(self.targets.rows)
        missing = [number for number in range(-(-rows // SHARD_ROWS)) if not is_sound(self._shard(number))]
        for number in told(missing, "shards of byte targets"):
            symbol, prob = self.targets(range(number * SHARD_ROWS, min((number + 1) * SHARD_ROWS, rows)))
            with atomic_dir(self._shard(number)) as shard:
                save_file({"symbol": symbol, "prob": prob}, shard / "targets.safetensors")
        vars(self.targets).pop("teacher", None)  # nobody asks it any more
        return self

    def __call__(self, numbers: Iterable[int]) -> Targets:
        """The targets of these rows."""
        return _stacked(self._of_row(*divmod(int(number), SHARD_ROWS)) for number in numbers)

    def _of_row(self, number: int, place: int) -> Targets:
        with safe_open(self._shard(number) / "targets.safetensors", framework="pt") as file:
            return file.get_slice("symbol")[place], file.get_slice("prob")[place]

    def _shard(self, number: int) -> Path:
        return self.folder / f"{number:05d}"


def _stacked(rows: Iterable[Targets]) -> Targets:
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))
