"""What a token model says after each node of a tree of tokens, by a tree attention mask.

A node attends to the nodes on its way from the root, and its position is how many they are; so it is computed as if the
tokens on this way were a text of their own. All nodes of a tree that are new take one forward pass.

Shape letters: E width, V token ids, T nodes of a slice, N nodes that are new, A all nodes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from dbyte.model.core import check_positions

NODES_AT_ONCE = 256  # whose probabilities of all tokens are in memory together


class TokenTree:
    """Tokens as a tree: node 0 is BOS, and node n stands for the tokens on the way to it.

    token: ids. parent: a node before n, -1 for the root. place: how many bytes of the text the tokens are. All are
    lists by node.
    """

    def __init__(self, bos_token_id: int):
        self.token, self.parent, self.place = [bos_token_id], [-1], [0]

    def __len__(self) -> int:
        return len(self.token)

    def add(self, parent: int, token: int, size: int) -> int:
        """Make the node of a token of `size` bytes after another node."""
        self.token.append(token)
        self.parent.append(parent)
        self.place.append(self.place[parent] + size)
        return len(self) - 1

    def tokens(self, node: int) -> list[int]:
        """The tokens on the way to a node, BOS first."""
        found = []
        while node >= 0:
            found.append(self.token[node])
            node = self.parent[node]
        return found[::-1]


class TreeReader:
    """Reads one tree of tokens with a causal language model, while the tree grows."""

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.head_VE = model.get_output_embeddings().weight
        self.cache = DynamicCache()  # keys and values of the nodes that were read
        self.ways: list[list[int]] = []  # the nodes on the way to each node, itself included

    @torch.inference_mode()
    def hidden(self, tree: TokenTree) -> Tensor:
        """The last hidden states of the nodes that are new: [N, E].

        Raises ValueError if the way to a node is longer than the model's positions.
        """
        known = len(self.ways)
        if known == len(tree):
            return self.head_VE[:0]
        for node in range(known, len(tree)):
            self.ways.append([*(self.ways[tree.parent[node]] if node else ()), node])
        new = self.ways[known:]
        check_positions(max(map(len, new)), self.model.config.max_position_embeddings)
        mask_NA = self.head_VE.new_full((len(new), len(tree)), float("-inf"))
        for row, way in enumerate(new):
            mask_NA[row, way] = 0
        token_1N = torch.tensor([tree.token[known:]], device=self.head_VE.device)
        position_1N = torch.tensor([[len(way) - 1 for way in new]], device=self.head_VE.device)
        return self.model.model(
            inputs_embeds=self.model.get_input_embeddings()(token_1N), attention_mask=mask_NA[None, None],
            position_ids=position_1N, past_key_values=self.cache, use_cache=True).last_hidden_state[0]

    @torch.inference_mode()
    def log_probs(self, tree: TokenTree) -> Iterator[tuple[range, Tensor]]:
        """Yield the nodes that are new, in order, and the log-probabilities of the token after each (fp32 [V, T]).

        Memory beyond the hidden states is O(NODES_AT_ONCE * V).
        """
        first = len(self.ways)
        for hidden_TE in self.hidden(tree).split(NODES_AT_ONCE):
            nodes = range(first, first + len(hidden_TE))
            yield nodes, (self.head_VE @ hidden_TE.T).float().log_softmax(0)
            first = nodes.stop
