"""A chunk as tokens: which bytes are a token, and how byte-pair encoding splits bytes that are none."""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

from dbyte.text.spans import RESERVED


class TokenPieces:
    """The teacher's tokens by their bytes, to split a chunk into tokens."""

    def __init__(self, token_bytes: Sequence[bytes], *, eos_token_id: int):
        """token_bytes: by id, empty for what is no text."""
        self.id_of = {text: token for token, text in reversed(list(enumerate(token_bytes))) if text}
        # Tokens of a chat template stand in contexts only, so they are never scored and need no ids of their own.
        self.id_of |= {bytes([byte]): eos_token_id for byte in RESERVED}

    def split(self, chunk: bytes) -> list[bytes]:
        """Split bytes into tokens as byte-pair encoding does; every single byte of UTF-8 is a token.

        Of two neighbours those are joined first whose token has the lowest id, since ids are in the order of merges.
        """
        if chunk in self.id_of:
            return [chunk]
        pieces = [bytes([byte]) for byte in chunk]
        while len(pieces) > 1:
            ids = [self.id_of.get(one + two, math.inf) for one, two in pairwise(pieces)]
            first = ids.index(min(ids))
            if ids[first] == math.inf:
                break
            pieces[first : first + 2] = [pieces[first] + pieces[first + 1]]
        return pieces

    def ends(self, text: bytes, begin: int, end: int) -> list[int]:
        """Where the tokens of `text[begin:end]` end in the text, one past their last bytes."""
        return [begin + total for total in accumulate(map(len, self.split(text[begin:end])))]
