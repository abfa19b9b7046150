"""Which symbols may follow so that a text stays UTF-8 (Unicode 15, table 3-7), for many rows at a time.

An automaton over bytes, with a state for what must come next. A symbol is a byte, a joint symbol (byte, flag) or a
token. Each leads to a state, and a symbol that cannot follow in UTF-8 gets -inf.

    WHOLE between characters; 1, 2, 3: so many continuation bytes to go; after E0, ED, F0, F4: the next is restricted

A character that the limit of bytes breaks is dropped. So a text with a lower limit is always the beginning of the
text with a higher one. Reserving room for whole characters would change the distribution of the last one.

Shape letters: S states, X symbols (256 bytes, 512 joint symbols or V tokens), K bytes.
"""

import codecs

import torch
from torch import Tensor

from dbyte.model.student import BYTES, ByteStudent
from dbyte.text.spans import BOS, EOS

DECODER = codecs.getincrementaldecoder("utf-8")
WHOLE, REFUSED, STATES = 0, 8, 9
AFTER_E0, AFTER_ED, AFTER_F0, AFTER_F4 = 4, 5, 6, 7
RULES = (  # (state, first byte, last byte, the state it leads to)
    (WHOLE, 0x00, 0x7F, WHOLE), (WHOLE, 0xC2, 0xDF, 1), (WHOLE, 0xE0, 0xE0, AFTER_E0), (WHOLE, 0xE1, 0xEC, 2),
    (WHOLE, 0xED, 0xED, AFTER_ED), (WHOLE, 0xEE, 0xEF, 2), (WHOLE, 0xF0, 0xF0, AFTER_F0), (WHOLE, 0xF1, 0xF3, 3),
    (WHOLE, 0xF4, 0xF4, AFTER_F4), (1, 0x80, 0xBF, WHOLE), (2, 0x80, 0xBF, 1), (3, 0x80, 0xBF, 2),
    (AFTER_E0, 0xA0, 0xBF, 1), (AFTER_ED, 0x80, 0x9F, 1), (AFTER_F0, 0x90, 0xBF, 2), (AFTER_F4, 0x80, 0x8F, 2),
)


def transitions() -> Tensor:
    """next_SK: the state (int64) that each byte leads to from each state; EOS ends a text between characters."""
    next_SK = torch.full((STATES, BYTES), REFUSED)
    for state, first, last, then in RULES:
        next_SK[state, first : last + 1] = then
    next_SK[WHOLE, EOS] = WHOLE
    return next_SK


def anything() -> Tensor:
    """next_SK (int64) where every byte but BOS may follow, and the state stays."""
    next_SK = torch.arange(STATES)[:, None].repeat(1, BYTES)
    next_SK[:, BOS] = REFUSED
    return next_SK


def over_tokens(student: ByteStudent, next_SK: Tensor) -> Tensor:
    """next_SV (int64): the state that each token's bytes lead to; a token without text stands for EOS."""
    offset_V1 = student.token_offset.cpu()
    table = student.token_table.cpu().long()
    start_V = offset_V1[:-1]
    length_V = offset_V1.diff()
    next_SV = torch.arange(STATES)[:, None].repeat(1, len(start_V))
    next_SV[:, length_V == 0] = next_SK[:, EOS, None]
    for i in range(int(length_V.max())):
        longer = (length_V > i).nonzero()[:, 0]
        next_SV[:, longer] = next_SK[next_SV[:, longer], table[start_V[longer] + i]]
    return next_SV


class Alphabet:
    """What may be drawn from each state: `floor_SX`, 0 or -inf, to add to logits; `next`, the state after a symbol."""

    def __init__(self, next_SX: Tensor, *, device: torch.device | str = "cpu"):
        self.next: list[list[int]] = next_SX.tolist()
        refused_SX = next_SX == REFUSED
        self.floor_SX = torch.zeros(next_SX.shape, device=device).masked_fill(refused_SX.to(device), float("-inf"))

    def bounded(self, logits_RX: Tensor, states: list[int]) -> Tensor:
        """Logits of rows in these states, -inf for what may not follow."""
        if states.count(states[0]) == len(states):
            return logits_RX + self.floor_SX[states[0]]
        return logits_RX + self.floor_SX[torch.tensor(states, device=logits_RX.device)]


def broken_character(text: bytes) -> bytes:
    """The bytes at a text's end that begin a character without ending it; empty for a text of complete characters."""
    decoder = DECODER(errors="ignore")
    decoder.decode(text[-3:])
    return decoder.getstate()[0]


def state_after(text: bytes) -> int:
    """The state after a text.

    Raises:
        ValueError: if it is no UTF-8; its last character may be broken off.
    """
    table = transitions().tolist()
    state = WHOLE
    first = 0  # where the character begins
    for offset, byte in enumerate(text):
        if state == WHOLE:
            first = offset
        state = table[state][byte]
        if state == REFUSED:
            raise ValueError(f"expected UTF-8, found byte 0x{text[first]:02X} at offset {first}, which begins no "
                             "character there: pass UTF-8, or ask for raw bytes (as_bytes=True)")
    return state
