"""How a student's parts are computed when it writes or scores: for a byte, a prompt, or a tree of texts.

`Engine` is plain torch on any device. `native.engine.NativeEngine` computes the same functions in C++ where it can.
Code that writes or scores text is given one of the two; nothing else in it depends on compiled code.

Shape letters: B rows, L bytes of the longest row, D width, E core width, T nodes of trees.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dbyte.decode.core_cache import CoreCache
from dbyte.decode.stack_step import stack_step
from dbyte.model.blocks import Stack, State
from dbyte.model.core import check_positions, run_core
from dbyte.model.student import ByteStudent
from dbyte.text.prefix_tree import Tree

Map = Callable[[Tensor], Tensor]
StackStep = Callable[..., Tensor]  # step(hidden_BD, states, commit=True), as `stack_step` after its first argument
POSITIONS_AT_ONCE = 16384  # of padded rows, when a tree is read


class Engine:
    """The parts of one student."""

    compiled = False

    def __init__(self, student: ByteStudent):
        self.student = student

    # -- one byte, one chunk ------------------------------------------------------------------------------------------

    def stack_step(self, stack: Stack) -> StackStep:
        """A stack as a function of one byte per row: `step(hidden_BD, states, commit=True)` returns [B, D]."""
        return partial(stack_step, stack)

    def core_cache(self, *, rows: int, slots: int) -> CoreCache:
        """An empty cache of the core for so many rows, with room for so many chunks each."""
        return CoreCache(self.student.core, rows=rows, slots=slots)

    def map(self, part: nn.Module | Tensor) -> Map:
        """A projection, a SwiGLU network or a weight [O, D] as a function of a few rows: [B, D] to [B, O]."""
        return partial(F.linear, weight=part) if isinstance(part, Tensor) else part

    # -- prompts ------------------------------------------------------------------------------------------------------

    def prefill(
        self, stack: Stack, hidden_BLD: Tensor, length_B: Tensor, *, slots: int = 0
    ) -> tuple[Tensor, list[State]]:
        """Run right-padded rows of one document each.

        length_B: int64, bytes of each row. slots: bytes that a state of attention must have room for.
        Returns:
            Outputs [B, L, D], which mean nothing past a row's end, and each block's state after byte length_B - 1.
        """
        return stack.prefill(hidden_BLD, length_B, slots=slots)

    # -- trees of texts -----------------------------------------------------------------------------------------------

    def read_stack(self, stack: Stack, hidden_TD: Tensor, tree: Tree) -> Tensor:
        """Run a stack over every node of a tree, after the node's ancestors: [T, D]."""
        return _by_rows(stack, hidden_TD, tree)

    def read_core(self, input_TE: Tensor, tree: Tree) -> Tensor:
        """Run the core over every node of a tree, after the node's ancestors: [T, E].

        Raises:
            ValueError: if the tree is deeper than the core has positions.
        """
        core = self.student.core
        check_positions(int(tree.depth_T.max()) + 1, core.config.max_position_embeddings)
        return _by_rows(partial(run_core, core), input_TE, tree)


def _by_rows(run: Callable[[Tensor, Tensor], Tensor], input_TD: Tensor, tree: Tree) -> Tensor:
    """Run each sequence that is not the beginning of another as a row of its own; padding has document -1."""
    output_TD = torch.empty_like(input_TD)
    for node_BL in _rows(tree):
        node_BL = node_BL.to(input_TD.device)
        real_BL = node_BL >= 0
        row_BLD = run(input_TD[node_BL.clamp(min=0)], real_BL.long() - 1)
        output_TD[node_BL[real_BL]] = row_BLD[real_BL].to(output_TD.dtype)
    return output_TD


def _rows(tree: Tree) -> Iterator[Tensor]:
    """The tree's rows in batches of similar length: nodes [B, L], -1 past a row's end."""
    node_NL = torch.from_numpy(tree.leaves())
    length_N = (node_NL >= 0).sum(1)
    order = length_N.argsort().tolist()
    while order:
        longest = int(length_N[order[-1]])
        places = order[-max(POSITIONS_AT_ONCE // longest, 1) :]
        del order[-len(places) :]
        yield node_NL[places, :longest]
