"""A student in transfer: a causal language model, and what trains with it and is left out of what is saved."""

from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedModel

from dbyte.model.adapters import add_adapters
from dbyte.transfer.heads import HEADS
from dbyte.transfer.vocabulary import vocabulary_parts

ADAPTED = ["q_proj", "v_proj"]


class TransferStudent(nn.Module):
    """What the training loop sees of a student.

    Its parts, which a step may name: embeddings, with the head over the vocabulary; byte_head; projection; and student,
    which holds the first as well, and the adapters.
    """

    def __init__(
        self, student: PreTrainedModel, *, rank: int = 0, head: str | None = None, teacher_width: int | None = None
    ):
        """rank: of LoRA on queries and values, 0: none. head: one of HEADS; None: no byte head.

        teacher_width: of the hidden states that ALM compares the student's with; None: it does not. Raises
        ModuleNotFoundError for LoRA without `peft`.
        """
        super().__init__()
        width = student.config.hidden_size
        # registered before the student, so that these weights are known by the name here
        self.embeddings = nn.ModuleList(vocabulary_parts(student))
        self.byte_head = HEADS[head](width) if head else None
        self.projection = nn.Linear(width, teacher_width, bias=False) if teacher_width else None
        if width == teacher_width:
            nn.init.eye_(self.projection.weight)
        if rank:
            add_adapters(student, rank, maps=ADAPTED, scale=1)
        self.student = student

    def save_pretrained(self, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the student alone in Hugging Face format; state_dict: the weights here, with adapters merged."""
        weights = self.state_dict() if state_dict is None else state_dict
        own = {name.removeprefix("student."): each for name, each in weights.items() if name.startswith("student.")}
        self.student.save_pretrained(folder, state_dict=own)
