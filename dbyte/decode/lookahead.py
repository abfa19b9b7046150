"""MBP's look-ahead: the router judges a byte beside a guess of the next one (paper section 4.1.2).

The router needs the encoder's state of byte i + 1 to say whether a chunk ends at byte i. While text is written:

    1. at byte i - 1 the first head gives byte i, which is drawn; the second head, of the same place, guesses byte i + 1
    2. the encoder takes in byte i
    3. the encoder tries the guess: its embedding goes through the encoder behind byte i, and no state changes
    4. the router compares the two states and says whether a chunk ends at byte i
    5. if so the core runs; the decoder then sees the chunk, as in training, and step 1 follows for byte i

The prompt's last byte is treated alike: the guess comes from the byte before it. What the paper leaves open:
- the guess is the second head's likeliest byte, at every temperature: it is a decision and not a part of the text
- it is made before byte i is known and does not change with it, except that with `valid_utf8` only bytes that may
  follow byte i are guessed; BOS is never guessed; a guess of EOS ends the chunk, by the contract that training has
- the "predicted embedding" passes through the encoder, since the router reads states and never bare embeddings; a
  split router has a stack of its own, which tries the guess in the encoder's place
- the first head, one byte later, would be a better guess of byte i + 1, but it reads a decoder that must already know
  whether a chunk ends at byte i

Shape letters: B rows, N rows at the start, D byte width.
"""

import torch
from torch import Tensor

from dbyte.model.blocks import State
from dbyte.model.router import THRESHOLD, Router
from dbyte.model.stack_step import StackStep
from dbyte.model.student import ByteStudent, is_special
from dbyte.text.spans import BOS, EOS


class LookAhead:
    """The router's running state, and how often its guess led where the true next byte would have led.

    agreed_N, decided_N: int64, by the row's number at the start; a boundary counts once its next byte is known, BOS's
    and that before EOS not at all.
    """

    def __init__(self, student: ByteStudent, encoder: StackStep, rows: int):
        """Begin before the first byte of each row."""
        new = student.null_E.new_zeros
        self.student, self.encoder = student, encoder
        self.split = None if isinstance(student.router, Router) else StackStep(student.router.stack)
        self.split_states = [] if self.split is None else student.router.stack.empty_state(rows)
        self.encoded_BD = new(rows, student.config.byte_width)
        self.byte_B = torch.full((rows,), BOS, device=student.device)
        self.ended_B = torch.ones(rows, dtype=torch.bool, device=student.device)
        self.agreed_N, self.decided_N = (torch.zeros(rows, dtype=torch.long, device=student.device) for _ in range(2))

    def prefill(self, ids_BL: Tensor, length_B: Tensor) -> None:
        """Take in the first length_B bytes of each row, whose boundaries were no guesses."""
        if self.split is not None:
            router = self.student.router
            self.split_states = router.stack.prefill(router.byte_embedding(ids_BL), length_B)[1]

    def take_in(self, byte_B: Tensor, encoded_BD: Tensor, row_B: Tensor) -> None:
        """Take in a byte, whose encoder state is encoded_BD, and count whether the byte before it was decided rightly.

        row_B: the rows' numbers at the start.
        """
        counts_B = ~is_special(self.byte_B)
        agrees_B = self._taken_in(byte_B, encoded_BD) == self.ended_B
        self.decided_N.index_add_(0, row_B, counts_B.long())
        self.agreed_N.index_add_(0, row_B, (counts_B & agrees_B).long())

    def decide(self, byte_B: Tensor, encoded_BD: Tensor, encoder_states: list[State], guess_B: Tensor) -> Tensor:
        """Whether a chunk ends at a byte that has been taken in, were the guess to follow (bool [B])."""
        self.encoded_BD, self.byte_B = encoded_BD, byte_B.clone()
        self.ended_B = self._tried(byte_B, encoded_BD, encoder_states, guess_B)
        return self.ended_B

    def _taken_in(self, byte_B: Tensor, encoded_BD: Tensor) -> Tensor:
        """What the router says of the byte before, now that this one is known."""
        if self.split is None:
            return self._cosine(self.encoded_BD, encoded_BD) | (byte_B == EOS)
        router = self.student.router
        return self._sigmoid(self.split.step(router.byte_embedding(byte_B), self.split_states))

    def _tried(
        self, byte_B: Tensor, encoded_BD: Tensor, encoder_states: list[State], guess_B: Tensor
    ) -> Tensor:
        student = self.student
        if self.split is None:
            tried_BD = self.encoder.step(student.byte_embedding(guess_B), encoder_states, commit=False)
            ends_B = self._cosine(encoded_BD, tried_BD)
        else:
            tried_BD = self.split.step(student.router.byte_embedding(guess_B), self.split_states, commit=False)
            ends_B = self._sigmoid(tried_BD)
        return ends_B | is_special(byte_B) | (guess_B == EOS)

    def _cosine(self, here_BD: Tensor, next_BD: Tensor) -> Tensor:
        pair_B2D = torch.stack([here_BD, next_BD], 1)
        nothing_B2 = torch.zeros(pair_B2D.shape[:2], dtype=torch.long, device=pair_B2D.device)
        return self.student.router(pair_B2D, nothing_B2, nothing_B2)[:, 0] >= THRESHOLD

    def _sigmoid(self, hidden_BD: Tensor) -> Tensor:
        return self.student.router.head(hidden_BD)[:, 0].float().sigmoid() >= THRESHOLD
