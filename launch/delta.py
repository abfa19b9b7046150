"""Write what is a student's own, without the teacher's weights, in files of at most 15 MB: DIR/STEP.K.safetensors."""

import argparse
from pathlib import Path

import safetensors.torch
import torch

from dbyte import presets
from dbyte.distill.curriculum import curriculum, plan_steps

TEACHERS = ("core.", "token_head.", "token_table", "token_offset", "encoder_projection.embedding_VE")
MOST_BYTES = 15_000_000


def parts(weights: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The weights in bf16, in groups of at most MOST_BYTES (a larger tensor is a group of its own)."""
    groups: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, weight in weights.items():
        half = weight.to(torch.bfloat16) if weight.is_floating_point() else weight
        if size and size + half.nbytes > MOST_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = half.contiguous()
        size += half.nbytes
    return groups


def main() -> None:
    """Write the newest complete step of a scale, and every step's curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", default="real")
    arguments = parser.parse_args()
    scale = presets.scale(arguments.scale)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    done = [one for one in plan_steps(scale, curriculum(scale), seed=0) if one.status == "complete"]
    for one in done:
        curve = (one.run.folder / "metrics.jsonl").read_bytes()
        (arguments.folder / f"{one.step.name.replace(' ', '_')}.metrics.jsonl").write_bytes(curve)
    if done:
        name = done[-1].step.name.replace(" ", "_")
        weights = safetensors.torch.load_file(done[-1].run.model_folder / "model.safetensors")
        own = {key: weight for key, weight in weights.items() if not key.startswith(TEACHERS)}
        for number, group in enumerate(parts(own)):
            safetensors.torch.save_file(group, arguments.folder / f"{name}.{number}.safetensors")
        print(f"{name}: {sum(weight.numel() for weight in own.values()):,} parameters of its own")


if __name__ == "__main__":
    main()
