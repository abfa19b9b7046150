"""The core's keys and values while text is written, for rows that advance at their own pace.

transformers' caches assume one length for all rows. Here row b holds length[b] positions, and a step writes only the
rows whose chunk has just ended.

Shape letters: B rows, M chunks, E core width, G key-value heads, W head width, S cache slots, R rows chosen.
"""

import torch
from torch import Tensor, nn

from dbyte.model.core import check_positions, run_core


class CoreCache:
    """Preallocated keys and values of every core layer: [layers, B, S, G, W] each.

    Memory: 2 * layers * B * S * G * W numbers. `length` holds the positions that each row has used.
    """

    is_compileable = False  # transformers reads this

    def __init__(self, core: nn.Module, *, rows: int, slots: int):
        """An empty cache; raises ValueError for more slots than the core has positions."""
        config = core.config
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        weight = next(core.parameters())
        shape = (config.num_hidden_layers, rows, slots, config.num_key_value_heads, head_width)
        check_positions(slots, config.max_position_embeddings)
        self.core = core
        self.keys = weight.new_zeros(shape)
        self.values = weight.new_zeros(shape)
        self.length = [0] * rows  # Python ints: reading them from a tensor would wait for the device
        self.slots = slots
        self._rows: list[int] | None = None

    def update(self, key_BGMW: Tensor, value_BGMW: Tensor, layer: int, *_, **__) -> tuple[Tensor, Tensor]:
        """Store this layer's new keys and values; called by transformers' attention."""
        if self._rows is None:  # prefill: every row, from slot 0
            M = key_BGMW.shape[2]
            self.keys[layer, :, :M] = key_BGMW.transpose(1, 2)
            self.values[layer, :, :M] = value_BGMW.transpose(1, 2)
            return key_BGMW, value_BGMW
        slots = [self.length[row] for row in self._rows]
        self.keys[layer, self._rows, slots] = key_BGMW[:, :, 0]
        self.values[layer, self._rows, slots] = value_BGMW[:, :, 0]
        used = max(slots) + 1
        return (self.keys[layer, self._rows, :used].transpose(1, 2),
                self.values[layer, self._rows, :used].transpose(1, 2))

    def get_seq_length(self, *_) -> int:
        """Longest row; transformers asks for it, positions are passed explicitly."""
        return max(self.length)

    def prefill(self, input_BME: Tensor, document_BM: Tensor) -> Tensor:
        """Run right-padded rows of one document each (padding has document -1) and store their keys and values."""
        output_BME = run_core(self.core, input_BME, document_BM, cache=self)
        self.length = (document_BM >= 0).sum(1).tolist()
        return output_BME

    def step(self, input_RE: Tensor, rows: list[int]) -> Tensor:
        """Append one position to these rows and return their hidden states [R, E].

        Raises:
            ValueError: if a row has no free slot.
        """
        slots = [self.length[row] for row in rows]
        if max(slots) >= self.slots:
            raise ValueError(f"the cache has room for {self.slots} chunks per row and is full: make it with more slots")
        hidden_RE = self._run(input_RE, rows, slots)
        for row in rows:
            self.length[row] += 1
        return hidden_RE

    def _run(self, input_RE: Tensor, rows: list[int], slots: list[int]) -> Tensor:
        """The core at position slots[r] of each row r, whose keys and values are stored there."""
        position_R = torch.tensor(slots, device=input_RE.device)
        visible_RS = torch.arange(max(slots) + 1, device=input_RE.device) <= position_R[:, None]
        mask_RS = torch.zeros_like(visible_RS, dtype=input_RE.dtype).masked_fill(~visible_RS, float("-inf"))
        self._rows = rows
        hidden_R1E = self.core(inputs_embeds=input_RE[:, None], attention_mask=mask_RS[:, None, None],
                               position_ids=position_R[:, None], past_key_values=self,
                               use_cache=True).last_hidden_state
        self._rows = None
        return hidden_R1E[:, 0]
