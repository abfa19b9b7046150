"""Conversations as bytes: the special tokens of a teacher's chat template have spans of one byte that is no text.

H-Net has no place for such tokens: BOS and EOS are the only bytes of its that UTF-8 never uses. There are eleven more.
Here BOS and EOS stand for the teacher's own two tokens wherever the template writes them, and each other special token
of the template has one of FREE, by ascending id. A student embeds these bytes like any other, its router ends a chunk
at and before each (student.py), and the chunk is that token: core and head read and write it as the teacher does. They
never come from text, since UTF-8 has none of them and a message that spells a special token is refused.

Deviation: a document begins with BOS. A template that does not write that token (Qwen's) is read after it all the same.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dbyte.text.spans import BOS, EOS, RESERVED, Aligned, TokenBytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FREE = tuple(byte for byte in RESERVED if byte not in (BOS, EOS))
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template. byte_of: the byte of each special token by its text; ids: its id."""

    tokenizer: "PreTrainedTokenizerBase"
    token_bytes: TokenBytes
    byte_of: Mapping[str, int]
    ids: Mapping[str, int]

    @classmethod
    def from_tokenizer(cls, tokenizer: "PreTrainedTokenizerBase", token_bytes: TokenBytes) -> "ChatTemplate":
        """ValueError for a tokenizer without a template, or one with more special tokens than there are free bytes."""
        if not tokenizer.chat_template or not isinstance(tokenizer.chat_template, str):
            raise ValueError(f"{token_bytes.name} has no chat template (chat_template.jinja): use the student of an "
                             "instruct teacher, or continue plain text")
        ids = {token.content: number for number, token in sorted(tokenizer.added_tokens_decoder.items())
               if token.special}
        own = {text: byte for byte, number in ((BOS, token_bytes.bos_token_id), (EOS, token_bytes.eos_token_id))
               for text in ids if ids[text] == number}
        others = [text for text in ids if text in tokenizer.chat_template and text not in own]
        if len(others) > len(FREE):
            raise ValueError(f"the chat template of {token_bytes.name} has {len(others)} special tokens next to BOS "
                             f"and EOS, and UTF-8 leaves {len(FREE)} bytes free: {', '.join(others)}")
        byte_of = own | dict(zip(others, FREE, strict=False))
        return cls(tokenizer, token_bytes, byte_of, {text: ids[text] for text in byte_of})

    def encode(self, messages: Messages, *, reply: bool = False) -> Aligned:
        """A conversation without the BOS that every document has; reply: up to where the assistant answers.

        messages: {"role", "content"} each. Raises ValueError for anything else, for a special token in a message, and
        for what the template itself refuses.
        """
        return self.align(self.render(messages, reply=reply))

    def align(self, text: str) -> Aligned:
        """A text that the template wrote, and maybe an answer after it, without the BOS that every document has."""
        pieces = self._pieces(text)
        if pieces[0] == "" and self.byte_of.get(pieces[1 % len(pieces)]) == BOS:
            pieces = pieces[2:]
        texts = iter(self.token_bytes.align_batch(pieces[::2]))
        parts = [next(texts) if place % 2 == 0 else Aligned(*map(torch.tensor, (
            [self.ids[piece]], [self.byte_of[piece]], [True]))) for place, piece in enumerate(pieces)]
        return Aligned(*(torch.cat([getattr(part, name) for part in parts])
                         for name in ("token_ids", "byte_ids", "boundary")))

    def decode(self, data: bytes) -> str:
        """The text that bytes of a conversation stand for, special tokens written out; U+FFFD for what is not UTF-8."""
        text_of = {bytes([byte]): text for text, byte in self.byte_of.items()}
        pieces = re.split(b"([" + re.escape(b"".join(text_of)) + b"])", data)
        return "".join(text_of[piece] if place % 2 else piece.decode(errors="replace")
                       for place, piece in enumerate(pieces))

    def render(self, messages: Messages, *, reply: bool = False) -> str:
        """The template's text; errors are those of `encode`."""
        from jinja2 import TemplateError

        for message in messages:
            if not (isinstance(message, Mapping) and all(isinstance(message.get(name), str)
                                                         for name in ("role", "content"))):
                raise ValueError(f"a message is {{'role': ..., 'content': ...}}, both texts, found {message!r}")
            for value in (message["role"], message["content"]):
                if not self.is_plain(value):
                    raise ValueError(f"a message holds {self._pieces(value)[1]!r}, which the chat template writes "
                                     "between turns: remove it from the message")
        try:
            return self.tokenizer.apply_chat_template([dict(each) for each in messages], tokenize=False,
                                                      add_generation_prompt=reply)
        except TemplateError as error:
            raise ValueError(f"the chat template of {self.token_bytes.name} refuses this conversation: {error}"
                             ) from error

    def is_plain(self, text: str) -> bool:
        """Whether a text spells none of the special tokens."""
        return len(self._pieces(text)) == 1

    def _pieces(self, text: str) -> list[str]:
        """Plain texts and special tokens in turn, a plain text (maybe empty) first and last."""
        return re.split("(" + "|".join(map(re.escape, sorted(self.byte_of, key=len, reverse=True))) + ")", text)
