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
# # 04 · Ablation: is the alignment of embeddings needed?
#
# The paper's section 6.1 and its Table 3, and what the authors' released code does differently. Other orders of the
# steps, and the joint objective, are in notebook 14.
#
# **Claim:** at equal bytes, a student that skips the alignment of embeddings collapses. **Beyond the paper:**
# differences between the paper and the released code, each as a row. **Cost:** two CPU cores; minutes, memory, what it
# reads and writes: [docs/notebooks.md](../docs/notebooks.md).

# %% tags=["parameters"]
scale = "smoke"
seed = 0
ablation_seeds = None  # as many as the scale has

# %%
from IPython.display import Image

from dbyte import presets
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.measure import Measurer, column_rows
from dbyte_paper import ablation_runs, ablations, figures, results, tables
from dbyte_paper.variants import alignments, with_snapshots

# %%
chosen = presets.changed(presets.scale(scale), ablation_seeds=ablation_seeds)
seeds = [seed + k for k in range(chosen.ablation.seeds)]
record = results.begin(chosen.name, seeds=seeds, device=chosen.device)
print(f"{chosen.ablation.step_bytes / 1e6:g} MB a step, seeds {seeds}, {chosen.ablation.items} items a column at most")

# %% [markdown]
# ## Table 3: with and without alignment, at equal bytes
#
# Every student reads the same number of bytes in all: half in step 1.1 and half in step 1.2, or all of them in one.
# The rows below those change one thing of the first. Accuracy is along the teacher's boundaries.

# %%
teacher = teacher_run(chosen, seed=seed)
variants = alignments(chosen)
order = [variant.name for variant in variants]
trained = ablation_runs.train(chosen, variants, seed=seed)
sequence = trained[order[0]][0][-1]
for name, by_seed in trained.items():
    print(f"{name:28s}", " -> ".join(f"{run.facts()['step']} ({run.facts()['seconds']:.0f} s)" for run in by_seed[0]))

# %%
measurer = Measurer(chosen, seed)
with record("alignment", keys=["model", "task"], of=sequence) as rows:
    measured = ablation_runs.measure(measurer, trained, "stage1/tokenizer")
    rows += ablation_runs.accuracy_rows(measured)
found = record.read("alignment")
tables.Table(ablations.table(found, order))

# %%
with record("alignment_teacher", keys=["model", "task"], of=sequence) as rows:
    rows += column_rows("teacher", measurer.columns(teacher, "token", items=chosen.ablation.items))
level = record.read("alignment_teacher")
picture = ablations.accuracy_figure(found, order, teacher=level)
Image(figures.save(picture, "alignment_ablation", frames=[found, level]))

# %% [markdown]
# The paper's, as printed:

# %%
tables.Table(tables.published("table03_ablation_alignment"), digits=1)

# %% [markdown]
# The sequence minus each other row, on the same items, seeds in pairs, averaged over columns:

# %%
with record("alignment_difference", keys=["what", "task"], of=sequence) as rows:
    rows += ablation_runs.variant_difference_rows(measured, order[0])
differences = record.read("alignment_difference")
tables.Table(ablations.differences(differences))

# %% [markdown]
# Column by column, for the claim itself:

# %%
claim = differences[differences["what"] == "align, then distil - distil only"]
tables.Table(claim[["task", "value", "low", "high", "n", "verdict"]], digits=1)

# %% [markdown]
# ## Accuracy against bytes
#
# The same two rows, trained again with models kept on the way. Bytes count from the first that the student read: the
# second half of the sequence is its step 1.2.

# %%
kept = ablation_runs.train(chosen, with_snapshots(variants[:2]), seed=seed)
with record("alignment_dynamics", keys=["model", "task", "train_bytes"], of=sequence) as rows:
    rows += ablation_runs.dynamics_rows(measurer, kept, "stage1/tokenizer")
dynamics = record.read("alignment_dynamics")
picture = ablations.curves_figure(dynamics, order[:2], teacher=level)
Image(figures.save(picture, "alignment_dynamics", frames=[dynamics, level]))

# %% [markdown]
# ## The loss of step 1.2 with and without step 1.1
#
# Eq. 3, the divergence from the teacher, against the same bytes: those of step 1.1 count. The student that aligned
# first starts its step 1.2 where the other, which has read as many bytes, has long been distilling.

# %%
with record("alignment_curves", keys=["model", "train_bytes"], of=sequence) as rows:
    rows += ablation_runs.curve_rows({name: trained[name] for name in order[:2]}, step=-1)
curves = record.read("alignment_curves")
counted = ablations.since_the_first_byte(curves, dynamics)
picture = ablations.loss_figure(counted, order[:2], label="divergence from the teacher (Eq. 3)")
Image(figures.save(picture, "alignment_loss", frames=[curves, dynamics]))

# %% [markdown]
# ## What could not be reproduced
#
# What the released code does differently in Stage 2 is in notebook 15. Bytes are ten thousand times fewer than the
# paper's; one teacher serves all seeds.
