"""What a token model says after each node of a tree of tokens, by a tree attention mask.

A node attends to the nodes on its way from the root, and its position is how many they are; so it is computed as if the
tokens on this way were a text of their own. All nodes of a tree that are new take one forward pass.

Shape letters: E width, V token ids, T nodes of a slice, N nodes that are new, A all nodes.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from dbyte.byte_probabilities.encodings import TokenTree
from dbyte.model.core import check_positions

NODES_AT_ONCE = 256  # whose probabilities of all tokens are in memory together


class TreeReader(Protocol):
    """Reads a tree of tokens while it grows."""

    def log_probs(self, tree: TokenTree) -> Iterator[tuple[range, Tensor]]:
        """Yield the nodes that are new, in order, and the log-probabilities of the token after each (fp32 [V, T])."""


class TokenModel(Protocol):
    """Anything that gives probabilities of next tokens: a teacher, or a table of counts in a test.

    size: its V. device: of the log-probabilities.
    """

    size: int
    device: torch.device

    def reader(self) -> TreeReader:
        """A reader that has read nothing."""


class Teacher:
    """A causal language model of transformers as a TokenModel."""

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.head_VE = model.get_output_embeddings().weight
        self.size = len(self.head_VE)
        self.device = self.head_VE.device

    def reader(self) -> "TeacherReader":
        """A reader that has read nothing."""
        return TeacherReader(self)


class TeacherReader:
    """The keys and values of the nodes that a teacher has read, and which of them each node sees."""

    def __init__(self, teacher: Teacher):
        self.teacher = teacher
        self.cache = DynamicCache()
        self.ways: list[list[int]] = []  # the nodes on the way to each node, itself included

    @torch.inference_mode()
    def hidden(self, tree: TokenTree) -> Tensor:
        """The last hidden states of the nodes that are new: [N, E].

        Raises ValueError if the way to a node is longer than the model's positions.
        """
        model = self.teacher.model
        check_positions(max(tree.depth) + 1, model.config.max_position_embeddings)
        known = len(self.ways)
        if known == len(tree):
            return self.teacher.head_VE[:0]
        for node in range(known, len(tree)):
            self.ways.append([*(self.ways[tree.parent[node]] if node else ()), node])
        head_VE = self.teacher.head_VE
        mask_NA = head_VE.new_full((len(tree) - known, len(tree)), float("-inf"))
        for row, way in enumerate(self.ways[known:]):
            mask_NA[row, way] = 0
        token_1N, position_1N = (torch.tensor([numbers[known:]], device=head_VE.device)
                                 for numbers in (tree.token, tree.depth))
        return model.model(
            inputs_embeds=model.get_input_embeddings()(token_1N), attention_mask=mask_NA[None, None],
            position_ids=position_1N, past_key_values=self.cache, use_cache=True).last_hidden_state[0]

    @torch.inference_mode()
    def log_probs(self, tree: TokenTree) -> Iterator[tuple[range, Tensor]]:
        """As TreeReader says; memory beyond the hidden states is O(NODES_AT_ONCE * V)."""
        known = len(self.ways)
        hidden_NE = self.hidden(tree)
        for start in range(0, len(hidden_NE), NODES_AT_ONCE):
            hidden_TE = hidden_NE[start : start + NODES_AT_ONCE]
            log_VT = (self.teacher.head_VE @ hidden_TE.T).float().log_softmax(0)
            yield range(known + start, known + start + len(hidden_TE)), log_VT
