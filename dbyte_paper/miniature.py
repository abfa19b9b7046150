"""The method in miniature: two sentences, a teacher that knows them by heart, and a student of it, in seconds on a CPU.

The reading parts of notebooks 01, 02 and 06 go through it tensor by tensor. Model, losses, steps and updates are those
of every other run, and nothing is saved. All of it is seeded and the same at every scale, so that what those pages show
does not depend on what was trained before.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

import pandas as pd
import torch
from IPython.display import Image, Markdown
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from dbyte.distill import objectives
from dbyte.distill.steps import EVERYTHING, Group, Step, stage1, stage2
from dbyte.distill.teacher import train_tokenizer
from dbyte.distill.trainer import Trainee, train_on
from dbyte.evaluate.boundaries import byte_rows
from dbyte.model.student import ByteStudent
from dbyte.model.student_config import StudentConfig
from dbyte.text.packing import document, pack
from dbyte.text.spans import BOS, EOS, TokenBytes
from dbyte_paper import chunk_view

SENTENCES = ("The café is open.", "Is there tea for two?")
ROW_BYTES = 48  # both sentences with BOS and EOS, and a few bytes of padding
VOCABULARY = 280  # the 256 bytes, BOS, EOS, and what is frequent in the sentences
TEACHER = dict(vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
               intermediate_size=96, max_position_embeddings=64, initializer_range=0.1, tie_word_embeddings=False,
               bos_token_id=0, eos_token_id=1)
STUDENT = dict(byte_width=32, encoder_layers=2, decoder_layers=2, ffn_width=48, state_size=16, head_width=16,
               chunk_size=16)
KNOW_BY_HEART = Step("0 teacher", 0, objectives.token, (Group(EVERYTHING, 1e-2),), 60 * ROW_BYTES, 0.1)
STAGE1 = stage1(align_bytes=10 * ROW_BYTES, distill_bytes=20 * ROW_BYTES, boundary_bytes=60 * ROW_BYTES,
                align_rate=1e-2, encoder_rate=3e-3, core_rate=3e-3, boundary_rate=1e-2)
STAGE2 = stage2(head_bytes=60 * ROW_BYTES, full_bytes=30 * ROW_BYTES, head_rate=1e-2, outer_rate=1e-3, core_rate=1e-3)


class Miniature:
    """Two sentences, a tiny teacher that knows them, and an untrained student of it.

    teacher: a Llama of two layers. token_bytes: the bytes of its tokens. student: a ByteStudent. rows, batch: both
    sentences packed into one row, whose tail is padding.
    """

    def __init__(self, *, decoding: str = "jbp"):
        """Make and train the teacher; decoding: "jbp" or "mbp", the student's byte heads."""
        tokenizer = train_tokenizer(list(SENTENCES) * 4, vocabulary=VOCABULARY)
        self.token_bytes = TokenBytes.from_tokenizer(tokenizer)
        self.rows = self.packed(*SENTENCES)
        self.batch = self.rows.batch([0])
        torch.manual_seed(0)
        self.teacher = LlamaForCausalLM(LlamaConfig(**TEACHER))
        _fit(KNOW_BY_HEART, self.teacher, None, self.batch)
        self.teacher.eval()
        self.student = ByteStudent.from_teacher(self.teacher, config=StudentConfig(decoding=decoding, **STUDENT),
                                                tokenizer=tokenizer)

    def packed(self, *texts: str):
        """The texts in one row, each with its BOS, its EOS and the boundaries of the teacher's tokens."""
        return pack([document(each, self.token_bytes) for each in self.token_bytes.align_batch(texts)],
                    row_bytes=ROW_BYTES)

    def train(self, *steps: Step) -> None:
        """Take steps of the curriculum on the two sentences alone, and print what each did to its loss."""
        for step in steps:
            losses = _fit(step, self.student, self.teacher, self.batch)
            print(f"{step.name:13s} {len(losses)} updates: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
        self.student.eval()

    def picture(self) -> Image:
        """The two sentences in the colours of the router's chunks, with its probabilities and the teacher's tokens."""
        rows = []
        for number, text in enumerate(SENTENCES, start=1):
            rows += byte_rows(self.student, self.packed(text), corpus="sentence", text=str(number))
        buffer = BytesIO()
        figure = chunk_view.figure(pd.DataFrame(rows), per_line=70)
        figure.savefig(buffer, format="png", bbox_inches="tight", dpi=110, metadata={"Software": None})
        return Image(buffer.getvalue())


def _fit(step: Step, model: PreTrainedModel, teacher: PreTrainedModel | None, batch) -> list[float]:
    """Train the step's parts on one batch, over and over; returns the loss of every update."""
    losses = []
    optimisers = step.optimisers(model)
    trainee = Trainee(model, teacher, step.objective)
    updates = step.train_bytes // ROW_BYTES
    for update in range(updates):
        stats = train_on(batch, step, step.lr_scale(update, updates), trainee, optimisers)
        losses.append(float(stats.loss))
    model.requires_grad_(False)
    return losses


# -- how a page shows things ------------------------------------------------------------------------------------------


def shape(name: str, tensor: Tensor, meaning: str) -> None:
    """Print a tensor's name, each axis by its letter with its size, and what it means.

    name: ends in the letters of its axes, as in `encoded_BLD`. Raises ValueError where those are not as many.
    """
    letters = re.findall(r"[A-Z]\d?", name.rsplit("_", 1)[-1])
    if len(letters) != tensor.dim():
        raise ValueError(f"{name} names {len(letters)} axes, and the tensor has {tensor.dim()}: {tuple(tensor.shape)}")
    axes = " ".join(f"{letter}={size}" for letter, size in zip(letters, tensor.shape, strict=True))
    print(f"{name:17s} {axes:17s} {meaning}")


def source(function: Callable) -> Markdown:
    """The source of a function of the library, as it stands."""
    return Markdown(f"```python\n{inspect.getsource(function)}```")


def glyph(symbol: int) -> str:
    """How a byte (0..255) is written, and with a bar after it a joint symbol (256..511) that ends a chunk."""
    byte = symbol % 256
    known = {BOS: "⊢", EOS: "⊣", ord(" "): "␣"}
    text = known.get(byte) or (chr(byte) if 32 < byte < 127 else f"{byte:02x}")
    return text + ("|" if symbol >= 256 else "")


def glyphs(ids_L: Tensor) -> list[str]:
    """`glyph` of each byte or joint symbol of a text."""
    return [glyph(symbol) for symbol in ids_L.tolist()]


def bars(boundary_L: Tensor) -> list[str]:
    """A bar for each boundary, and nothing for the other bytes."""
    return ["|" if ends else "" for ends in boundary_L.tolist()]


def strip(lines: Mapping[str, Sequence[object]]) -> None:
    """Print lists of one length below one another, one column per byte, each with its name on the left."""
    for name, cells in lines.items():
        print(f"{name:20s}" + "".join(f"{cell!s:>4s}" for cell in cells))
