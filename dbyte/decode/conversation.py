"""A conversation with a student: what was said and answered, as far as the core has positions for it.

A turn is read together with the turns before it. Where they are more chunks than fit next to an answer, the oldest are
forgotten, a user's turn together with the answer to it. The turns of a system stay, those that the template writes by
itself too.

Shape letter: L bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from dbyte.model.student import ByteStudent
from dbyte.text.chat import ChatTemplate
from dbyte.text.spans import BOS

ANSWER_SHARE = 0.5  # of the positions that are kept free for an answer, at most


@dataclass
class Conversation:
    """Asks a student one turn after another.

    answer_bytes: the most that an answer may have. tell: is told once that turns are forgotten. messages: the turns
    that are remembered.
    """

    student: ByteStudent
    chat: ChatTemplate
    answer_bytes: int
    tell: Callable[[str], object] = print
    messages: list[dict[str, str]] = field(default_factory=list)
    has_forgotten: bool = False

    def prompt(self, said: str) -> bytes:
        """The bytes up to where the answer to what is said begins; ValueError as `ChatTemplate.encode`.

        A turn that does not fit alone is kept whole: `ByteStream` refuses it if it has more chunks than positions.
        """
        messages = [*self.messages, {"role": "user", "content": said}]
        prompt = self._encode(messages)
        while (shorter := without_oldest(messages)) and not self._fits(prompt):
            messages = shorter
            prompt = self._encode(messages)
        if len(messages) <= len(self.messages) and not self.has_forgotten:
            self.has_forgotten = True
            self.tell(f"The core has {self._positions} positions, too few for the whole conversation: its oldest turns "
                      "are forgotten from here on.")
        self.messages = messages[:-1]
        return prompt

    def remember(self, said: str, answer: str) -> None:
        """Add a turn and its answer; ValueError for an answer that spells a special token, which no message may."""
        if not self.chat.is_plain(answer):
            raise ValueError("the answer spells a special token of the chat template, so this turn is forgotten")
        self.messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]

    @property
    def _positions(self) -> int:
        return self.student.core.config.max_position_embeddings

    def _encode(self, messages: list[dict[str, str]]) -> bytes:
        return bytes(self.chat.encode(messages, reply=True).byte_ids.tolist())

    def _fits(self, prompt: bytes) -> bool:
        """Whether an answer has room after it, of which every byte may be a chunk."""
        room = min(self.answer_bytes, int(ANSWER_SHARE * self._positions))
        return chunks_of(self.student, prompt) + room <= self._positions


@torch.inference_mode()
def chunks_of(student: ByteStudent, prompt: bytes) -> int:
    """How many chunks a prompt (bytes without BOS) has for the student; the last byte ends one."""
    ids_1L = torch.tensor([[BOS, *prompt]], device=student.device)
    document_1L = torch.zeros_like(ids_1L)
    prob_1L = student.route(student.encode(ids_1L, document_1L), ids_1L, document_1L)
    return int(student.end_chunks(prob_1L, ids_1L, torch.ones_like(ids_1L, dtype=torch.bool))[0, :-1].sum()) + 1


def without_oldest(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The messages without the oldest turn of a user and what followed on it; empty if there is no later one."""
    users = [place for place, each in enumerate(messages) if each["role"] == "user"]
    return messages[: users[0]] + messages[users[1] :] if len(users) > 1 else []
