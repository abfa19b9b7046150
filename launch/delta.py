"""What a student has of its own, without its teacher's weights: small enough to bring back, and put together again.

    python launch/delta.py DIR --scale SCALE                write DIR/STEP.K.safetensors (bf16, at most 15 MB each) and
                                                            DIR/curves.json of the newest complete step
    python launch/delta.py DIR --scale SCALE --join OUT     where the teacher is: the whole student, in OUT
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from dbyte import presets
from dbyte.distill.curriculum import curriculum, new_student, plan_steps
from dbyte.distill.teacher_source import teacher_folder
from dbyte.model.teacher import load_teacher
from dbyte.presets import Scale

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


def take_apart(scale: Scale, folder: Path) -> None:
    """Write the newest complete step of a scale, and every step's curve; says so where the core was trained."""
    folder.mkdir(parents=True, exist_ok=True)
    done = [one for one in plan_steps(scale, curriculum(scale), seed=0) if one.status == "complete"]
    (folder / "curves.json").write_text(json.dumps({one.step.name: one.run.metrics() for one in done}))
    if not done:
        print("no step is complete")
        return
    name = done[-1].step.name.replace(" ", "_")
    weights = load_file(done[-1].run.model_folder / "model.safetensors")
    core = load_teacher(done[-1].teacher, dtype=torch.float32)[0].model.state_dict()
    if moved := [name for name, weight in weights.items() if name.startswith("core.")
                 and not torch.equal(weight, core[name.removeprefix("core.")])]:
        print(f"{len(moved)} tensors of the core have trained and are NOT in these files: keep the core frozen "
              "(core_rate = 0 in both stages), or bring the whole model back")
    own = {key: weight for key, weight in weights.items() if not key.startswith(TEACHERS)}
    for number, group in enumerate(parts(own)):
        save_file(group, folder / f"{name}.{number}.safetensors")
    print(f"{name}: {sum(weight.numel() for weight in own.values()):,} parameters of its own")


def join(scale: Scale, folder: Path, out: Path) -> None:
    """Save the student of these files around its teacher; ValueError if they are not all of it."""
    teacher, tokenizer = load_teacher(teacher_folder(scale.teacher), dtype=torch.float32)
    student = new_student(scale, teacher, tokenizer, seed=0)
    files = sorted(folder.glob("*.safetensors"))
    own = {name: weight for path in files for name, weight in load_file(path).items()}
    found = student.load_state_dict(own, strict=False)
    missing = [name for name in found.missing_keys if not name.startswith(TEACHERS)]
    if missing or found.unexpected_keys or len({path.name.split(".")[1] for path in files}) != 1:
        raise ValueError(f"{folder} must hold the files of one step of scale {scale.name}, found "
                         f"{[path.name for path in files]}; missing {missing[:3]}, unknown {found.unexpected_keys[:3]}")
    student.config.stage = int(files[0].name[0])
    student.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", default="real")
    parser.add_argument("--join", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    scale = presets.scale(arguments.scale)
    if arguments.join:
        join(scale, arguments.folder, arguments.join)
    else:
        take_apart(scale, arguments.folder)


if __name__ == "__main__":
    main()
