"""Scale `real`: what each option for few bytes is worth, at a budget of minutes.

    python benchmarks/real_options.py                        writes real_options.md, with runs in runs/
    python benchmarks/real_options.py --scale smoke --align-bytes 40000 --distill-bytes 20000 --no-report   that it runs

Every row differs from the scale's own recipe in one thing. Those of step 1.1 read `--align-bytes`; those of step 1.2
continue the first row's student for `--distill-bytes` more. Measured on held-out text, along the tokenizer's
boundaries: KL to the teacher and bits per byte over the teacher's, each with its error over rows or pieces; and F1 of
the router. One seed: a difference of two rows is that of two runs. Stage 2 is in notebook 21.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from measuring import begin, machine, write

from dbyte import presets
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.measure import Measurer
from dbyte_paper.real_teacher import BITS, KL, text_rows

ALIGN = {"as the scale has it": {}, "a quarter vocabulary rows": {"vocabulary": 0.25},
         "a quarter noisy rows": {"noisy": 0.25},
         "AdamW in place of Muon": {"align_muon": 0.0, "align_rate": 1e-3}}
STUDENT = {"no longest suffix": {"suffix": False, "router_suffixes": 0}}
DISTIL = {"1.2, core frozen": {"core_rate": 0.0}, "1.2, core at 2e-5": {"core_rate": 2e-5},
          "1.2, adapters of rank 16": {"core_rate": 2e-4, "core_lora": 16}}


def trained(scale: presets.Scale, stage1: dict, student: dict, *, last: int) -> Path:
    """The student after so many steps with other settings of Stage 1 and of the student."""
    changed = replace(scale, student=scale.student | student, stage1=scale.stage1 | {"snapshots": 0} | stage1)
    return run_steps(changed, curriculum(changed)[:last], seed=0)[-1].model_folder


def cells(measurer: Measurer, folder: Path, teacher: Path) -> list[str]:
    """KL, bits over the teacher's and the router's F1 on each corpus."""
    found = text_rows(measurer, {"teacher": (teacher, "token"), "student": (folder, "stage1/tokenizer")})
    told = {(row["corpus"], row["measure"]): row for row in found if row["model"] == "student"}
    filled = []
    for corpus, _ in measurer.scale.corpora:
        kl, bits = told[corpus, KL], told[corpus, BITS]
        filled += [f"{kl['value']:.3f} ± {kl['stderr']:.3f}",
                   f"{bits['more']:.1f} ± {bits['more_stderr']:.1f}",
                   f"{100 * measurer.boundaries(folder, corpus).f1:.1f}"]
    return filled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="real", help="a name or a .toml file")
    parser.add_argument("--align-bytes", type=int, default=200_000)
    parser.add_argument("--distill-bytes", type=int, default=32_768)
    parser.add_argument("--no-report", action="store_true", help="print alone")
    arguments = parser.parse_args()
    begin()
    scale = presets.scale(arguments.scale)
    measurer, teacher = Measurer(scale, 0), teacher_run(scale, seed=0)
    sizes = {"align_bytes": arguments.align_bytes, "distill_bytes": arguments.distill_bytes}
    rows = ([(name, changes, {}, 1) for name, changes in ALIGN.items()]
            + [(name, {}, student, 1) for name, student in STUDENT.items()]
            + [(name, changes, {}, 2) for name, changes in DISTIL.items()])
    corpora = [name for name, _ in scale.corpora]
    lines = [f"Scale {scale.name}, {sizes['align_bytes'] / 1e6:.2f} MB of step 1.1, {sizes['distill_bytes'] / 1e6:.3f}"
             f" of 1.2; {machine()}.", "",
             "| recipe | " + " | ".join(f"{name}: KL | more bits, % | F1" for name in corpora) + " |",
             "|---|" + "---:|---:|---:|" * len(corpora)]
    for name, stage1, student, last in rows:
        folder = trained(scale, sizes | stage1, student, last=last)
        lines.append(f"| {name} | " + " | ".join(cells(measurer, folder, teacher)) + " |")
        print(lines[-1], flush=True)
    text = "\n".join(lines)
    if not arguments.no_report:
        write(Path(__file__).with_suffix(".md"), text)


if __name__ == "__main__":
    main()
