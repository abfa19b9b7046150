# ---
# jupyter:
#   dbyte:
#     needs: ['00']
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · Another tokenizer: distillation through a byte-level interface
#
# The second paper, arXiv 2604.07466 (BLD), and its rivals: a student with another tokenizer, or with bytes, learns from
# a teacher through the teacher's probabilities of bytes. All arms start from one teacher, read the same bytes, and have
# the same sweep of rates. No code of BLD is public; what it leaves open is listed in `docs/deviations.md`.
#
# **Claims:** BLD is competitive with ALM and ahead on some columns; from one BPE to another nearly all is recovered;
# bytes lose most; no method is ahead everywhere. **Cost:** two CPU cores; minutes, memory, what it reads and writes:
# [docs/notebooks.md](../docs/notebooks.md).

# %% tags=["parameters"]
scale = "smoke"
seed = 0
ablation_seeds = None  # as many as the scale has
rates = [1e-3, 4e-3]
rank = 64  # of LoRA on queries and values, 0: all weights train
reading = "joint"  # of the teacher's bytes in all arms that do not say another one
tokenizer = None  # a folder or hub name for "another BPE", None: one of twice the teacher's vocabulary, trained here
quality_bytes = 100  # of each of three held-out documents

# %%
from dataclasses import replace

from IPython.display import Image

from dbyte import presets
from dbyte.distill.data import heldout_corpus
from dbyte.distill.steps import stage2
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.measure import Measurer, column_rows
from dbyte_paper import ablation_runs, ablations, byte_interface, figures, results, tables
from dbyte_paper.variants import Variant, run_variant, sequence

# %%
chosen = presets.changed(presets.scale(scale), ablation_seeds=ablation_seeds)
seeds = [seed + k for k in range(chosen.ablation.seeds)]
record = results.begin(chosen.name, seeds=seeds, device=chosen.device)
print(f"{chosen.ablation.step_bytes / 1e6:g} MB an arm, seeds {seeds}, rates {rates}, rank {rank}")

# %% [markdown]
# ## What the teacher says about bytes
#
# Each way of reading it, next to the exact one, on held-out text. The divergence is Jensen and Shannon's, in nats a
# byte; the bias is what a reading gives the text more than the exact one does. "Impossible" counts bytes of the text
# that a reading gives no probability at all; "healed" counts how often a beam had no state left.

# %%
teacher = teacher_run(chosen, seed=seed)
texts = heldout_corpus(chosen, chosen.corpora[-1][0], seed=seed).documents[:3]
with record("interface_readings", keys=["reading"], of=teacher.parent.name) as rows:
    rows += byte_interface.quality_rows(teacher, texts, limit=quality_bytes)
readings = record.read("interface_readings")
tables.Table(readings.sort_values("value"), digits=4)

# %%
Image(figures.save(byte_interface.quality_figure(readings), "interface_readings", frames=[readings]))

# %% [markdown]
# ## BPE to BPE, BPE to bytes
#
# The student begins as the teacher, with new embeddings and a new head. `rate` is the best of the sweep for each arm,
# by bits per byte on texts that are used for nothing else.

# %%
other = tokenizer or byte_interface.other_tokenizer(chosen, seed=seed)
shared = dict(teacher=str(teacher), rank=rank, reading=reading)
measurer = Measurer(chosen, seed)
baseline = measurer.columns(teacher, "token", items=chosen.ablation.items)

# %%
pairs = {"to another BPE": other, "to bytes": "bytes"}
trained = {}
with record("interface_rates", keys=["pair", "arm", "rate"], of=teacher.parent.name) as rows:
    for pair, name in pairs.items():
        runs, sweep = byte_interface.train_arms(chosen, byte_interface.ARMS, rates=rates, seed=seed, tokenizer=name,
                                                **shared)
        trained |= {f"{arm}, {pair}": each for arm, each in runs.items()}
        rows += byte_interface.sweep_rows(pair, sweep)
swept = record.read("interface_rates")
tables.Table(swept.pivot_table("value", ["pair", "arm"], "rate").rename(columns=str).reset_index(), digits=3)

# %% [markdown]
# Accuracy, on the same items as the teacher, with errors over seeds and items:

# %%
last = next(iter(trained.values()))[0][-1]
with record("interface", keys=["model", "task"], of=last) as rows:
    measured = ablation_runs.measure(measurer, trained, "token")
    rows += ablation_runs.accuracy_rows(measured)
found = record.read("interface")
tables.Table(ablations.table(found, list(measured)))

# %%
with record("interface_teacher", keys=["model", "task"], of=last) as rows:
    rows += column_rows("teacher", baseline)
level = record.read("interface_teacher")
picture = ablations.accuracy_figure(found, list(measured), teacher=level)
Image(figures.save(picture, "interface", frames=[found, level]))

# %% [markdown]
# What is kept of the teacher's average, in percent, and bits per byte on held-out text:

# %%
with record("interface_kept", keys=["model", "task"], of=last) as rows:
    rows += ablation_runs.retention_rows(measured, dict.fromkeys(measured, baseline))
tables.Table(record.read("interface_kept"))

# %%
with record("interface_bits", keys=["model", "corpus"], of=last) as rows:
    rows += ablation_runs.bits_rows(measurer, trained, "token")
bits = record.read("interface_bits")
tables.Table(tables.estimates(bits, rows=["model"], columns="corpus", order=sorted(bits.corpus.unique()), digits=3))

# %% [markdown]
# ## A larger teacher, a smaller student with a tokenizer of its own
#
# The student is this scale's teacher with the other tokenizer; it learns from the larger teacher of Table 10.

# %%
larger = replace(chosen, teacher=chosen.teachers.larger if chosen.teachers else chosen.teacher, continues=None)
some = {arm: byte_interface.ARMS[arm] for arm in ("SFT", "BLD", "ALM")}
with record("interface_larger", keys=["model", "task"], of=last) as rows:
    runs, _ = byte_interface.train_arms(chosen, some, rates=rates, seed=seed, tokenizer=other, student=str(teacher),
                                        **shared | {"teacher": str(teacher_run(larger, seed=seed))})
    from_larger = ablation_runs.measure(measurer, runs, "token")
    rows += ablation_runs.accuracy_rows(from_larger)
tables.Table(ablations.table(record.read("interface_larger"), list(from_larger)))

# %% [markdown]
# ## Both papers at equal bytes
#
# The first paper's two stages and BLD to bytes, from the same teacher: BLD reads as many bytes as all five steps.

# %%
size = chosen.ablation.step_bytes
steps = sequence(chosen) + stage2(**{**chosen.stage2, "head_bytes": size, "full_bytes": size})
ours = [run_variant(chosen, Variant("two stages", steps), seed=each, teacher_seed=seed,
                    batch_rows=chosen.ablation.batch_rows) for each in seeds]
bld, _ = byte_interface.train_arms(chosen, {"BLD": byte_interface.ARMS["BLD"]}, rates=rates, seed=seed,
                                   train_bytes=len(steps) * size, tokenizer="bytes", **shared)

# %%
with record("interface_both_papers", keys=["model", "task"], of=ours[0][-1]) as rows:
    both = ablation_runs.measure(measurer, {"two stages": ours}, "stage2/router")
    both |= ablation_runs.measure(measurer, bld, "token")
    rows += ablation_runs.accuracy_rows(both)
tables.Table(ablations.table(record.read("interface_both_papers"), list(both)))

# %% [markdown]
# ## The claims
#
# Differences on the same items, in points.

# %%
with record("interface_difference", keys=["what", "task"], of=last) as rows:
    for pair in pairs:
        rivals = [f"{arm}, {pair}" for arm in byte_interface.ARMS if arm != "BLD"]
        rows += ablation_runs.variant_difference_rows(measured, f"BLD, {pair}", rivals)
    rows += ablation_runs.variant_difference_rows(measured, "BLD, to another BPE", ["BLD, to bytes"])
tables.Table(ablations.differences(record.read("interface_difference")))

# %% [markdown]
# What the papers print; "quoted" where we could not read the paper itself:

# %%
tables.Table(byte_interface.published(), digits=2)

# %% [markdown]
# ## What could not be reproduced
#
# BLD's models have 1 to 8 billion parameters, and its training set, batch, rates and steps are not known to us. Its
# baseline DSKD is not here, and of MinED only the embeddings are. ALM's losses have fixed weights here; the paper
# weighs them by the size of their gradients. A byte student's first layer reads single bytes; ALM adds the embedding of
# the longest old token that ends there.
