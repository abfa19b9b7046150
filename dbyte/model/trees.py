"""A stack and a core over trees of sequences: what sequences begin with is computed once, where it can be.

Compiled (`step.cpp`, fp32 on a CPU, Mamba2) a node goes on from the state of its parent. Otherwise each sequence is a
row of its own, padded among others of similar length: the same function, nothing shared.

Shape letters: T nodes of trees, D width, E core width, B rows, L nodes of the longest row.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from dbyte.model.blocks import Stack
from dbyte.model.core import check_positions, run_core
from dbyte.native import core as fused_core
from dbyte.native import stack as fused_stack
from dbyte.text.prefix_tree import Tree

AT_ONCE = 16384  # positions of padded rows


def read_stack(
    stack: Stack, hidden_TD: Tensor, tree: Tree, *, wanted_T: Tensor | None = None, compiled: bool = False
) -> Tensor:
    """A stack's outputs [T, D]; those of nodes that are not wanted (bool [T]) mean nothing."""
    if compiled and fused_stack.can_fuse(stack):
        return fused_stack.stack_step(stack, compiled=True).read(hidden_TD, tree, wanted_T)
    return _by_rows(stack, hidden_TD, tree)


def read_core(core: nn.Module, input_TE: Tensor, tree: Tree, *, compiled: bool = False) -> Tensor:
    """A core's last hidden states [T, E]; ValueError where a tree is deeper than the core has positions."""
    depth = int(tree.depth_T.max()) + 1
    check_positions(depth, core.config.max_position_embeddings)
    if compiled and fused_core.can_step(core) and fused_core.can_fuse(core):
        return fused_core.FusedCore(core, slots=depth).read(input_TE, tree)
    return _by_rows(lambda row_BLE, document_BL: run_core(core, row_BLE, document_BL), input_TE, tree)


def _by_rows(run: Callable[[Tensor, Tensor], Tensor], input_TD: Tensor, tree: Tree) -> Tensor:
    """Run every sequence that is no beginning of another as a row; padding has document -1."""
    output_TD = torch.empty_like(input_TD)
    for node_BL in _rows(tree):
        node_BL = node_BL.to(input_TD.device)
        real_BL = node_BL >= 0
        row_BLD = run(input_TD[node_BL.clamp(min=0)], real_BL.long() - 1)
        output_TD[node_BL[real_BL]] = row_BLD[real_BL].to(output_TD.dtype)
    return output_TD


def _rows(tree: Tree) -> Iterator[Tensor]:
    """Nodes of the rows [B, L], -1 behind a row's end."""
    node_NL = torch.from_numpy(tree.leaves())
    length_N = (node_NL >= 0).sum(1)
    order = length_N.argsort().tolist()
    while order:
        longest = int(length_N[order[-1]])
        places = order[-max(AT_ONCE // longest, 1) :]
        del order[-len(places) :]
        yield node_NL[places, :longest]
