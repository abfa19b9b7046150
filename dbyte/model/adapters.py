"""Low-rank adapters (LoRA, arXiv 2106.09685) of a core, by the package peft: few weights train, the core's own stay.

A model that is saved has them added to the core's maps, and is one like any other.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

ADAPTER = ".lora_"  # in the names of an adapter's weights
SCALE = 2  # of what an adapter adds, as is usual: peft's lora_alpha over its rank


def add_adapters(
    core: PreTrainedModel, rank: int, *, maps: str | list[str] = "all-linear", scale: float = SCALE
) -> None:
    """Give linear maps of a core adapters, which add nothing yet; a core that has them is left as it is.

    maps: the last names of those that get one, or all. scale: alpha over rank. Raises ModuleNotFoundError without the
    package peft.
    """
    if any(ADAPTER in name for name, _ in core.named_parameters()):
        return
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same first weights in a run that is resumed
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=maps), core)


def check_peft() -> None:
    """Raise ModuleNotFoundError without the package peft: better before the steps in front than after them."""
    import peft  # noqa: F401


def merged_state(model: nn.Module) -> dict[str, Tensor] | None:
    """The weights of a model with its adapters added to the maps that have them; None if it has none."""
    state = model.state_dict()
    if not any(ADAPTER in name for name in state):
        return None
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            state[f"{name}.base_layer.weight"] = module.base_layer.weight.detach() + module.get_delta_weight("default")
    return {name.replace(".base_layer.", "."): weight.detach() for name, weight in state.items() if ADAPTER not in name}
