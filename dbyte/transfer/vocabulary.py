"""Another vocabulary for a model: new embeddings and a new head; the transformer between them stays as it is.

A new token begins as the mean of the rows of these old tokens:

    mean     those that its bytes are split into; one, if it is an old token itself
    fvt      those that its text is split into by the whole old tokenizer: fast vocabulary transfer (Gee et al.,
             arXiv 2402.09977); a token that is no text by itself is treated as by `mean`
    mined    the one with the smallest edit distance in bytes: the mapping of MinED (Wan et al., arXiv 2401.10491)
    fresh    none: random numbers

BOS and EOS begin as the old BOS and EOS; other ids without bytes as the mean of all old rows.

Shape letters: V new token ids, W old token ids, X old tokens that are averaged, L bytes, E width.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dbyte.text.exact import byte_of_character
from dbyte.text.spans import TokenBytes

INITS = ("mean", "fvt", "mined", "fresh")
LETTER_OF = {byte: letter for letter, byte in byte_of_character().items()}
Finder = Callable[[bytes], list[int]]  # from the bytes of a new token to old tokens


def with_vocabulary(
    model: PreTrainedModel, old: TokenBytes, tokenizer: PreTrainedTokenizerBase, *, init: str = "mean", seed: int = 0
) -> PreTrainedModel:
    """A copy of a causal language model for another tokenizer; its head is tied if the model's is.

    old: the model's tokens. init: one of INITS; seed: of "fresh". Raises ValueError for another init, or a tokenizer
    that is not byte-exact.
    """
    if init not in INITS:
        raise ValueError(f"unknown init of new embeddings {init!r}: choose one of {', '.join(INITS)}")
    new = TokenBytes.from_tokenizer(tokenizer)
    sources = [] if init == "fresh" else old_tokens(new, old, init)
    generator = torch.Generator().manual_seed(seed)

    def table(old_WE: Tensor) -> Tensor:
        if sources:
            return averaged(old_WE.detach()[: len(old)], sources)
        std = model.config.initializer_range
        return torch.empty(len(new), old_WE.shape[1]).normal_(0, std, generator=generator).to(old_WE)

    changed = copy.deepcopy(model)
    embedding_VE = table(model.get_input_embeddings().weight)
    changed.set_input_embeddings(nn.Embedding.from_pretrained(embedding_VE, freeze=False))
    head = nn.Linear(embedding_VE.shape[1], len(new), bias=False, device="meta")
    tied = model.config.tie_word_embeddings
    head.weight = nn.Parameter(embedding_VE if tied else table(model.get_output_embeddings().weight))
    changed.set_output_embeddings(head)
    for config in (changed.config, changed.generation_config):
        config.bos_token_id, config.eos_token_id = new.bos_token_id, new.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    changed.config.vocab_size = changed.vocab_size = changed.model.vocab_size = len(new)
    changed.tie_weights()
    return changed


def averaged(old_WE: Tensor, sources: list[list[int]]) -> Tensor:
    """The mean of each list's rows [V, E]; that of all rows for an empty list."""
    starts = torch.tensor([0, *map(len, sources[:-1])], device=old_WE.device).cumsum(0)
    flat_X = torch.tensor([token for each in sources for token in each], device=old_WE.device)
    found_VE = F.embedding_bag(flat_X, old_WE, starts, mode="mean")
    found_VE[torch.tensor([not each for each in sources])] = old_WE.mean(0)
    return found_VE


def old_tokens(new: TokenBytes, old: TokenBytes, init: str) -> list[list[int]]:
    """The old tokens that each new token begins as, by new id; init: "mean", "fvt" or "mined"."""
    of_bytes = {text: [token] for token, text in reversed(list(enumerate(old.token_bytes)))}
    find = {"mean": _split, "fvt": _fast_transfer, "mined": _nearest}[init](old)
    found = [of_bytes.get(text) or find(text) if text else [] for text in new.token_bytes]
    found[new.eos_token_id] = [old.eos_token_id]
    found[new.bos_token_id] = [old.bos_token_id]
    return found


def _split(old: TokenBytes) -> Finder:
    """Split bytes by the old merges alone, whether or not they are text; a byte without a token is left out."""
    return lambda text: [token.id for token in old.backend.model.tokenize("".join(map(LETTER_OF.get, text)))]


def _fast_transfer(old: TokenBytes) -> Finder:
    def find(text: bytes) -> list[int]:
        try:
            return old.backend.encode(text.decode(), add_special_tokens=False).ids
        except UnicodeDecodeError:
            return _split(old)(text)

    return find


def _nearest(old: TokenBytes) -> Finder:
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
