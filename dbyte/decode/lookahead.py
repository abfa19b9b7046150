"""MBP's look-ahead: the router judges a byte together with a guess of the next one (paper section 4.1.2).

The router needs the encoder's state of byte i + 1 to say whether a chunk ends at byte i. While text is written:

    1. at byte i - 1 the first head gives byte i, which is drawn; the second head, of the same place, guesses byte i + 1
    2. the encoder takes in byte i
    3. the encoder tries the guess: its embedding goes through the encoder after byte i, and no state changes
    4. the router compares the two states and says whether a chunk ends at byte i
    5. if so the core runs; the decoder then sees the chunk, as in training, and step 1 follows for byte i

The prompt's last byte is treated in the same way: the guess comes from the byte before it. What the paper leaves open:
- the guess is the second head's likeliest byte, at every temperature: it is a decision and not a part of the text
- it is made before byte i is known and does not change with it, except that with `valid_utf8` only bytes that may
  follow byte i are guessed; BOS is never guessed; a guess of EOS ends the chunk, by the contract that training has
- the "predicted embedding" passes through the encoder, since the router reads states and never bare embeddings; a
  split router has a stack of its own, which tries the guess in the encoder's place
- the first head, one byte later, would be a better guess of byte i + 1, but it reads a decoder that must already know
  whether a chunk ends at byte i

Shape letters: B rows, L prompt bytes, D byte width.
"""

import torch
from torch import Tensor

from dbyte.decode.engine import Engine, StackStep
from dbyte.model.blocks import State
from dbyte.model.router import THRESHOLD, Router, boundary_prob
from dbyte.text.spans import is_special


class LookAhead:
    """Whether a chunk ends at a byte, if a guess of the next byte follows it."""

    def __init__(self, encoder: StackStep, rows: int, *, engine: Engine):
        """Begin before the first byte of each row; encoder: the stream's own."""
        self.student = engine.student
        self.encoder = encoder
        router = self.student.router
        self.split: StackStep | None = None
        self.split_states: list[State] = []
        if isinstance(router, Router):
            self.query = engine.map(router.query)
            self.key = engine.map(router.key)
        else:
            self.split = engine.stack_step(router.stack)
            self.split_states = router.stack.empty_state(rows)

    def prefill(self, ids_BL: Tensor, length_B: Tensor) -> None:
        """Take in the first length_B (int64) bytes of each row, whose boundaries the router set itself."""
        if self.split is not None:
            router = self.student.router
            self.split_states = router.stack.prefill(router.byte_embedding(ids_BL), length_B)[1]

    def take_in(self, byte_B: Tensor) -> None:
        """Take in a byte that the encoder takes in too."""
        if self.split is not None:
            self.split(self.student.router.byte_embedding(byte_B), self.split_states)

    def decide(
        self, byte_B: Tensor, encoded_BD: Tensor, encoder_states: list[State], guess_B: Tensor, tail_BW: Tensor
    ) -> Tensor:
        """Whether a chunk ends at a byte that has been taken in, if the guess follows it (bool [B]).

        tail_BW: the newest bytes, that one included, -1 where none was; a router with suffixes reads it.
        """
        router = self.student.router
        if self.split is None:
            tried_BD = self.encoder(self.student.byte_embedding(guess_B), encoder_states, commit=False)
            prob_B = boundary_prob(self.query(encoded_BD), self.key(tried_BD))
            if router.suffixes is not None:
                suffix_BW = self.student.suffix_table.find(torch.cat((tail_BW, guess_B[:, None]), dim=1))
                prob_B = router.suffixes(prob_B, suffix_BW[:, -2], suffix_BW[:, -1])
        else:
            tried_BD = self.split(router.byte_embedding(guess_B), self.split_states, commit=False)
            prob_B = router.prob_before(tried_BD)
        return (prob_B >= THRESHOLD) | is_special(byte_B) | is_special(guess_B)
