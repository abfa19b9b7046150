# ---
# jupyter:
#   dbyte:
#     needs: ['00', '04']
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · Ablation: which encoder learns the teacher's embeddings?
#
# The paper's section 6.3 and its Table 5. Step 1.1 asks an encoder to turn the bytes of each token into the teacher's
# embedding of it. The paper puts a Transformer of as many parameters in the place of Mamba2 and sees a collapse.
#
# **Claim:** with Mamba2 the student is far ahead of the same student with a Transformer encoder, after the same step.
# **Questions beyond the paper:** is it Mamba2, or is it that Mamba2 is local? Does depth or width matter?
# **Cost:** two CPU cores; minutes, memory, what it reads and writes: [docs/notebooks.md](../docs/notebooks.md).

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
from dbyte_paper.variants import encoders, with_snapshots

# %%
chosen = presets.changed(presets.scale(scale), ablation_seeds=ablation_seeds)
seeds = [seed + k for k in range(chosen.ablation.seeds)]
items = chosen.ablation.items
record = results.begin(chosen.name, seeds=seeds, device=chosen.device)
print(f"{chosen.ablation.step_bytes / 1e6:g} MB a student, seeds {seeds}, {items} items a column at most")

# %% [markdown]
# ## Nine encoders, one step
#
# Every encoder reads the same bytes under the same teacher. A row is data (`dbyte_paper/variants.py`): a name, the
# steps, and what its student has that others have not. An encoder without Mamba2 has its feed-forward networks widened
# until it has as many parameters; those of other depth or width have more or fewer.

# %%
teacher = teacher_run(chosen, seed=seed)
variants = encoders(chosen)
order = [variant.name for variant in variants]
trained = ablation_runs.train(chosen, variants, seed=seed)
mamba = trained[order[0]][0][0]
for name, count in ablation_runs.sizes(trained).items():
    print(f"{name:26s} {count:9,} parameters, {trained[name][0][0].facts()['seconds']:6.0f} s of training")

# %% [markdown]
# ## Loss against bytes
#
# Eq. 2: the squared distance to the teacher's embedding, averaged over tokens. Bands are two standard errors over
# seeds.

# %%
with record("encoder_curves", keys=["model", "train_bytes"], of=mamba) as rows:
    rows += ablation_runs.curve_rows(trained)
curves = record.read("encoder_curves")
picture = ablations.loss_figure(curves, order, label="alignment loss (Eq. 2)")
Image(figures.save(picture, "encoder_loss", frames=[curves]))

# %% [markdown]
# Over the last tenth of the bytes, which no student had read before:

# %%
with record("encoder_loss", keys=["model", "task"], of=mamba) as rows:
    rows += ablation_runs.loss_rows(trained)
tables.Table(record.read("encoder_loss").sort_values("value"), digits=4)

# %% [markdown]
# ## Table 5
#
# What the teacher's own core makes of each encoder's chunks, along the teacher's boundaries: accuracy in percent, with
# errors over seeds and items.

# %%
measurer = Measurer(chosen, seed)
with record("encoder", keys=["model", "task"], of=mamba) as rows:
    measured = ablation_runs.measure(measurer, trained, "stage1/tokenizer")
    rows += ablation_runs.accuracy_rows(measured)
found = record.read("encoder")
tables.Table(ablations.table(found, order))

# %%
with record("encoder_teacher", keys=["model", "task"], of=mamba) as rows:
    rows += column_rows("teacher", measurer.columns(teacher, "token", items=items))
level = record.read("encoder_teacher")
picture = ablations.accuracy_figure(found, order, teacher=level)
Image(figures.save(picture, "encoder", frames=[found, level]))

# %% [markdown]
# The paper's, as printed:

# %%
tables.Table(tables.published("table05_ablation_encoder"), digits=1)

# %% [markdown]
# ## Accuracy against bytes
#
# The two rows of the paper's table, trained again with models kept on the way.

# %%
kept = ablation_runs.train(chosen, with_snapshots(variants[:2]), seed=seed)
with record("encoder_dynamics", keys=["model", "task", "train_bytes"], of=mamba) as rows:
    rows += ablation_runs.dynamics_rows(measurer, kept, "stage1/tokenizer")
dynamics = record.read("encoder_dynamics")
picture = ablations.curves_figure(dynamics, order[:2], teacher=level)
Image(figures.save(picture, "encoder_dynamics", frames=[dynamics, level]))

# %% [markdown]
# ## The claim, and the controls
#
# Mamba2 minus each other encoder on the same items, seeds in pairs, averaged over columns. `shown` and `opposite` need
# the whole interval on one side of zero.

# %%
with record("encoder_difference", keys=["what", "task"], of=mamba) as rows:
    rows += ablation_runs.variant_difference_rows(measured, "Mamba2")
    rows += ablation_runs.variant_difference_rows(measured, "Mamba2, AdamW", ["Transformer, AdamW"])
tables.Table(ablations.differences(record.read("encoder_difference")))

# %% [markdown]
# If a convolution or a short window of attention, which remember nothing beyond a few bytes, does as well as Mamba2,
# then it is locality that matters: a token is a few bytes long, and its embedding depends on nothing before it.

# %% [markdown]
# ## What could not be reproduced
#
# The paper's teacher has billions of parameters and a vocabulary a hundred times larger, its students read ten thousand
# times as many bytes, and its Transformer's size and rates are not given. The rates here were chosen with Mamba2, which
# may favour it; hence the rows by AdamW, the paper's optimiser. One teacher serves all seeds.
