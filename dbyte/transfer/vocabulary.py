"""Another vocabulary for a model: new embeddings and a new head; the transformer between them stays as it is.

A new token begins as the mean of the rows of these old tokens:

    mean     those that its bytes are split into; one, if it is an old token itself
    fvt      those that its text is split into by the whole old tokenizer: fast vocabulary transfer (Gee et al.,
             arXiv 2402.09977); a token that is no text by itself is treated as by `mean`
    mined    the one with the smallest edit distance in bytes: the mapping of MinED (Wan et al., arXiv 2401.10491)
    fresh    none: random numbers

BOS and EOS begin as the old BOS and EOS; other ids without bytes as the mean of all old rows. Where one new token is
both, its embedding, which opens texts, begins as that of the old BOS, and its row of the head, which ends them, as that
of the old EOS; a row that is both begins as their mean.

Shape letters: V new token ids, W old token ids, L bytes, E width.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dbyte.text.exact import byte_of_character
from dbyte.text.spans import TokenBytes

INITS = ("mean", "fvt", "mined", "fresh")
LETTER_OF = {byte: letter for letter, byte in byte_of_character().items()}


def with_vocabulary(
    model: PreTrainedModel, old: TokenBytes, tokenizer: PreTrainedTokenizerBase, *, init: str = "mean", seed: int = 0
) -> PreTrainedModel:
    """The causal language model, changed for another tokenizer; its head stays tied if it is.

    old: the model's tokens. init: one of INITS; seed: of "fresh". Raises ValueError for another init, or a tokenizer
    that is not byte-exact.
    """
    if init not in INITS:
        raise ValueError(f"unknown init of new embeddings {init!r}: choose one of {', '.join(INITS)}")
    new = TokenBytes.from_tokenizer(tokenizer)
    sources = [] if init == "fresh" else old_tokens(new, old, init)
    generator = torch.Generator().manual_seed(seed)

    def begun(old_WE: Tensor) -> Tensor:
        if sources:
            return averaged(old_WE.detach()[: len(old)], sources)
        std = model.config.initializer_range
        return torch.empty(len(new), old_WE.shape[1]).normal_(0, std, generator=generator)

    parts = vocabulary_parts(model)
    tables = [begun(part.weight) for part in parts]
    if sources and len(parts) == 2:  # the embedding reads BOS alone, and the head writes EOS alone
        tables[0][new.bos_token_id] = parts[0].weight.detach()[old.bos_token_id]
        tables[1][new.eos_token_id] = parts[1].weight.detach()[old.eos_token_id]
    model.resize_token_embeddings(len(new), mean_resizing=False)
    model.get_input_embeddings().padding_idx = None  # of the old tokens: the new one with this id must train
    for part, table_VE in zip(vocabulary_parts(model), tables, strict=True):
        part.weight.data.copy_(table_VE)
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id = new.bos_token_id, new.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    return model


def vocabulary_parts(model: PreTrainedModel) -> list[nn.Module]:
    """What knows the vocabulary: the embedding and, unless its weights are the same, the head."""
    parts = [model.get_input_embeddings(), model.get_output_embeddings()]
    return parts[:1] if model.config.tie_word_embeddings else parts


def averaged(old_WE: Tensor, sources: list[list[int]]) -> Tensor:
    """The mean of each list's rows [V, E]; that of all rows for an empty list."""
    mean_E = old_WE.mean(0)
    return torch.stack([old_WE[each].mean(0) if each else mean_E for each in sources])


def old_tokens(new: TokenBytes, old: TokenBytes, init: str) -> list[list[int]]:
    """The old tokens that each new token begins as, by new id; init: "mean", "fvt" or "mined"."""
    of_bytes = {text: [token] for token, text in reversed(list(enumerate(old.token_bytes)))}
    find = _nearest(old) if init == "mined" else partial(_spelled, old, as_text=init == "fvt")
    found = [of_bytes.get(text) or find(text) if text else [] for text in new.token_bytes]
    ends = ((new.bos_token_id, old.bos_token_id), (new.eos_token_id, old.eos_token_id))
    for token, _ in ends:
        found[token] = sorted({source for other, source in ends if other == token})
    return found


def _spelled(old: TokenBytes, text: bytes, *, as_text: bool) -> list[int]:
    """What the old tokenizer splits a token into: as a text by itself, if it is one, or by its merges alone.

    A byte without a token is left out.
    """
    if as_text:
        with suppress(UnicodeDecodeError):
            return old.backend.encode(text.decode(), add_special_tokens=False).ids
    return [token.id for token in old.backend.model.tokenize("".join(map(LETTER_OF.get, text)))]


def _nearest(old: TokenBytes) -> Callable[[bytes], list[int]]:
    """The old token with the smallest edit distance, of equal ones the first; O(W * L) for each byte of a token."""
    ids = np.flatnonzero(old.lengths)
    size_W = old.lengths[ids]
    text_WL = np.zeros((len(ids), size_W.max()), dtype=np.int16)
    for row, token in enumerate(ids):
        text_WL[row, : size_W[row]] = np.frombuffer(old.token_bytes[token], dtype=np.uint8)
    place_L = np.arange(text_WL.shape[1] + 1)

    def find(text: bytes) -> list[int]:
        # rows of the usual table, for all old tokens at once; insertions within a row are a running minimum
        before_WL = np.broadcast_to(place_L, (len(ids), len(place_L)))
        for number, byte in enumerate(text, start=1):
            row_WL = np.full_like(before_WL, number)
            row_WL[:, 1:] = np.minimum(before_WL[:, 1:] + 1, before_WL[:, :-1] + (text_WL != byte))
            before_WL = np.minimum.accumulate(row_WL - place_L, axis=1) + place_L
        return [int(ids[before_WL[np.arange(len(ids)), size_W].argmin()])]

    return find
