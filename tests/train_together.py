"""What processes of test_processes.py and test_training.py run: one step of a small curriculum, alone or with others.

    python train_together.py ROOT STEP SHARDING EXPECTED [STOP [SECONDS CHECKPOINTS]] [then ROOT STEP ...]

STOP: die after so many updates, 0: never; 3:1: process 1 is killed there, the others are not. SECONDS: that each
update takes longer. CHECKPOINTS: seconds between two.

The rows are ROOT/rows.safetensors, or a stream of ROOT/shards where that folder is.
Under fsdp2 it runs in micro-batches of one row and recomputes activations, so that they are tested together.
"""

import os
import signal
import sys
import time
from itertools import groupby
from pathlib import Path

import conftest
from transformers import AutoTokenizer

from dbyte.distill import trainer
from dbyte.distill.loader import Feed, StreamFeed
from dbyte.distill.processes import join
from dbyte.distill.runs import Run
from dbyte.distill.steps import stage1, stage2
from dbyte.text.packing import Rows
from dbyte.text.spans import TokenBytes

UPDATES, ROWS, LENGTH = 6, 4, 160
BUDGET = UPDATES * ROWS * LENGTH
STEPS = {step.name[:3]: step for step in (
    *stage1(align_bytes=BUDGET, distill_bytes=BUDGET, boundary_bytes=BUDGET, snapshots=1),
    *stage2(head_bytes=BUDGET, full_bytes=BUDGET))}


def feed(root: Path) -> Feed | StreamFeed:
    if not (root / "shards").exists():
        return Feed(Rows.load(root / "rows.safetensors"), ROWS, seed=0)
    token_bytes = TokenBytes.from_tokenizer(AutoTokenizer.from_pretrained(root / "tokenizer"))
    return StreamFeed([(f"hub:{root / 'shards'}", 1)], token_bytes, row_bytes=LENGTH, batch_rows=ROWS, seed=0, lanes=2,
                      positions=32)


def main(root: Path, name: str, sharding: str, expected: str, stop: str = "", seconds: str = "0", checkpoints: str = "0"
         ) -> None:
    processes = join("cpu", expected=int(expected), sharding=sharding)
    if stop:
        trainer.CHECKPOINT_SECONDS, trainer.CHECKPOINT_SHARE = float(checkpoints), float("inf")
        kept, made = trainer.train_on, []
        after, _, alone = stop.partition(":")

        def dying(*arguments, **options):
            time.sleep(float(seconds))
            if int(after) and len(made) == int(after) and alone in ("", str(processes.rank)):
                if alone:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise SystemExit(f"died after {stop}")
            made.append(None)
            return kept(*arguments, **options)

        trainer.train_on = dying
    trainer.train(Run({"step": name}, root=root), STEPS[name], feed(root),
                  model=conftest.make_student(conftest.make_teacher()), teacher=conftest.make_teacher(),
                  launch=trainer.Launch(processes=processes, rows_at_once=1 if sharding == "fsdp2" else None,
                                        recompute=sharding == "fsdp2"))


if __name__ == "__main__":
    for _, task in groupby(sys.argv[1:], key="then".__ne__):
        root, *arguments = task
        if root != "then":
            main(Path(root), *arguments)
