"""Does the plan hold? FLOPs and seconds of every step at scale `small`, modelled and measured.

    python benchmarks/plan_check.py                             a few updates a step, and the runs in runs/
    python benchmarks/plan_check.py --rounds 1 --updates 1 --out /tmp/plan_check.md     to see that it runs

The plan knows one rate, that of matrix products, and one utilisation. Here the rate is measured with every step, the
utilisation is what step 1.2 reaches, and the seconds of all other steps are predicted from the two. The rows are real:
tokens, or the router's chunks in stage 2, are counted in each batch.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import torch
from measuring import MATMUL, begin, flops, interleaved, machine, matmul, write
from steps import ROUNDS, UPDATES, small, updates

from dbyte import presets
from dbyte.distill import run_list
from dbyte.distill.steps import Step
from dbyte.distill.terms import Forward
from dbyte.model.student import ByteStudent
from dbyte.paths import RUNS
from dbyte.plan.counting import count_step, muon_flops
from dbyte.presets import Scale
from dbyte.text.packing import Batch

CALIBRATED = "1.2 distill"


@dataclass(frozen=True)
class StepRate:
    """One step: FLOPs per byte by the model and by torch, bytes, seconds and the matmul rate of the same rounds."""

    step: Step
    modelled: float
    counted: float
    many: int
    seconds: float
    rate: float

    @property
    def utilisation(self) -> float:
        """The share of the matmul rate that the step reaches."""
        return self.modelled * self.many / (self.seconds * self.rate)

    def predicted(self, utilisation: float) -> float:
        """Seconds by the plan's formula."""
        return self.modelled * self.many / (self.rate * utilisation)


def as_cut(step: Step, student: ByteStudent, batch: Batch) -> Batch:
    """A batch as a step cuts it: at the teacher's tokens, or in stage 2 at the router's boundaries."""
    if step.stage == 1:
        return batch
    with torch.no_grad():
        return replace(batch, boundary_BL=Forward(student, None, batch).router_chunks.boundary_BL)


def measure(
    step: Step, student: ByteStudent, teacher: torch.nn.Module, batches: list[Batch], *, rounds: int
) -> StepRate:
    """Run a few updates of a step, in turn with a product whose rate is known."""
    modelled = mean((sum(count_step(student.config, step, as_cut(step, student, batch), backend="fast").flops.values())
                     + muon_flops(student, step)) / batch.byte_ids_BL.numel() for batch in batches)
    call = updates(step, student, teacher, batches, "fast")
    many = sum(batch.byte_ids_BL.numel() for batch in batches)
    seconds = interleaved({"step": call, "matmul": matmul()}, rounds=rounds)
    return StepRate(step, modelled, flops(call) / many, many, median(seconds["step"]),
                    2 * MATMUL**3 / median(seconds["matmul"]))


def steps_table(measured: list[StepRate]) -> list[str]:
    """A step a row: the two counts, the utilisation, and seconds predicted with that of CALIBRATED."""
    utilisation = next(one.utilisation for one in measured if one.step.name == CALIBRATED)
    lines = ["| step | MFLOP a byte, modelled | counted | off by | utilisation | s/MB, predicted | measured | off by |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for one in measured:
        predicted = one.predicted(utilisation)
        a_megabyte = 1e6 / one.many
        lines.append(f"| {one.step.name} | {one.modelled / 1e6:.3f} | {one.counted / 1e6:.3f} | "
                     f"{100 * (one.modelled / one.counted - 1):+.2f} % | {100 * one.utilisation:.0f} % | "
                     f"{predicted * a_megabyte:.1f} | {one.seconds * a_megabyte:.1f} | "
                     f"{100 * (predicted / one.seconds - 1):+.0f} % |")
    return lines


def complete_runs(scale: Scale, steps: tuple[Step, ...]) -> list[tuple[Step, dict]]:
    """The complete runs below runs/ that trained a step of a scale, whatever the seed: (step, facts)."""
    found = []
    for entry in run_list.entries(RUNS):
        student = (entry.config or {}).get("student")
        facts = entry.facts
        if facts and student and all(student.get(name) == size for name, size in scale.student.items()):
            found += [(step, facts) for step in steps if facts["step"] == step.name
                      and abs(facts["train_bytes"] - step.train_bytes) <= scale.batch_rows * scale.row_bytes]
    return found


def runs_table(measured: list[StepRate], runs: list[tuple[Step, dict]]) -> list[str]:
    """A step a row: seconds of complete runs, predicted from the rate of today, against what their folders say."""
    utilisation = next(one.utilisation for one in measured if one.step.name == CALIBRATED)
    lines = ["| step | runs | MB | s, predicted | s, median of runs | off by |", "|---|---:|---:|---:|---:|---:|"]
    for one in measured:
        facts = [facts for step, facts in runs if step.name == one.step.name]
        if facts:
            seconds = median(each["seconds"] for each in facts)
            many = facts[0]["train_bytes"]
            predicted = one.predicted(utilisation) * many / one.many
            lines.append(f"| {one.step.name} | {len(facts)} | {many / 1e6:.1f} | {predicted:.0f} | {seconds:.0f} | "
                         f"{100 * (predicted / seconds - 1):+.0f} % |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--updates", type=int, default=UPDATES, help="of a step in a round")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    arguments = parser.parse_args()
    begin()
    student, teacher, batches, steps, what = small()
    measured = []
    for step in steps:
        measured.append(measure(step, student, teacher, batches[: arguments.updates], rounds=arguments.rounds))
        print(f"{step.name}: {100 * measured[-1].utilisation:.0f} % of the matmul rate", flush=True)
    runs = complete_runs(presets.scale("small"), steps)
    write(arguments.out, "\n".join([
        f"The plan's FLOPs and seconds against measured ones: {what}. {machine()}; rounds: {arguments.rounds}, of "
        f"{arguments.updates} updates, medians. Seconds are predicted with the utilisation of step {CALIBRATED}.", "",
        *steps_table(measured), "",
        "Complete runs, snapshots and logs included, whatever else the machine did that day:", "",
        *runs_table(measured, runs)]))


if __name__ == "__main__":
    main()
