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
# # 09 · The router: reading the encoder, or on its own
#
# The paper's appendix B and its Table 9. The router reads the encoder's hidden states; the alternative is a small
# stack of Mamba2 of its own over the raw bytes.
#
# **Claims:** the integrated router finds boundaries better and keeps more of the teacher than a split one; even small
# errors of the router cost much. **Cost:** two CPU cores; minutes, memory, what it reads and writes:
# [docs/notebooks.md](../docs/notebooks.md).

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
from dbyte_paper.variants import routers

# %%
chosen = presets.changed(presets.scale(scale), ablation_seeds=ablation_seeds)
seeds = [seed + k for k in range(chosen.ablation.seeds)]
record = results.begin(chosen.name, seeds=seeds, device=chosen.device)
print(f"{chosen.ablation.step_bytes / 1e6:g} MB a step, seeds {seeds}, {chosen.ablation.items} items a column at most")

# %% [markdown]
# ## Two routers after the same steps
#
# Both students take steps 1.1 and 1.2, which no router touches, and then train their router by Eq. 4 alone.

# %%
teacher = teacher_run(chosen, seed=seed)
trained = ablation_runs.train(chosen, routers(chosen), seed=seed)
integrated = trained["integrated"][0][-1]
with record("router_loss", keys=["model", "task"], of=integrated) as rows:
    rows += ablation_runs.loss_rows(trained)
tables.Table(record.read("router_loss"), digits=4)

# %% [markdown]
# ## Boundary F1 on held-out text
#
# Against the teacher's tokens, in percent, with errors over seeds. Bytes whose boundary the format fixes do not count.

# %%
measurer = Measurer(chosen, seed)
with record("router_f1", keys=["model", "corpus"], of=integrated) as rows:
    rows += ablation_runs.boundary_rows(measurer, trained)
tables.Table(record.read("router_f1"))

# %% [markdown]
# ## Table 9
#
# Accuracy along each router's own boundaries. A third row has the first student along the teacher's boundaries:
# encoder and core are the same, so the difference is what wrong boundaries cost.

# %%
ideal = "integrated, teacher's boundaries"
with record("router", keys=["model", "task"], of=integrated) as rows:
    measured = ablation_runs.measure(measurer, trained, "stage1/router")
    measured |= ablation_runs.measure(measurer, {ideal: trained["integrated"]}, "stage1/tokenizer")
    rows += ablation_runs.accuracy_rows(measured)
found = record.read("router")
tables.Table(ablations.table(found, list(measured)))

# %%
with record("router_teacher", keys=["model", "task"], of=integrated) as rows:
    rows += column_rows("teacher", measurer.columns(teacher, "token", items=chosen.ablation.items))
level = record.read("router_teacher")
picture = ablations.accuracy_figure(found, list(measured), teacher=level)
Image(figures.save(picture, "router", frames=[found, level]))

# %% [markdown]
# The paper's, as printed:

# %%
tables.Table(tables.published("table09_router"), digits=1)

# %% [markdown]
# ## The claims
#
# The integrated router minus the split one, and the teacher's boundaries minus the integrated router's: what wrong
# boundaries cost, in points.

# %%
with record("router_difference", keys=["what", "task"], of=integrated) as rows:
    rows += ablation_runs.variant_difference_rows(measured, "integrated", ["split"])
    rows += ablation_runs.variant_difference_rows(measured, ideal, ["integrated", "split"])
tables.Table(ablations.differences(record.read("router_difference")))

# %% [markdown]
# ## What could not be reproduced
#
# The paper's split router is four layers of width 512 and does not say how it looks ahead; here it is a smaller stack
# that sees the byte ahead, as the integrated one does, so that the comparison is one of features. Routers here read far
# fewer bytes than at the main run of this scale, and one teacher serves all seeds.
