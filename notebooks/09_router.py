# ---
# jupyter:
#   dbyte:
#     needs: ['00', '04']
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
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
# errors of the router cost much. **Cost:** two CPU cores; minutes are in `results/<scale>/notebook_times.csv`.

# %% tags=["parameters"]
scale = "smoke"
seed = 0
ablation_seeds = None  # as many as the scale has

# %%
import time
from functools import partial

from IPython.display import Image, display

from dbyte import presets
from dbyte.distill.teacher import teacher_run
from dbyte.distill.variants import routers
from dbyte.evaluate import ablation
from dbyte.evaluate.measure import Measurer, column_rows
from dbyte.report import ablations, figures, results, tables
from dbyte.report.provenance import environment_report

# %%
chosen = presets.changed(presets.scale(scale), ablation_seeds=ablation_seeds)
seeds = [seed + k for k in range(chosen.ablation.seeds)]
write = partial(results.write_results, scale=scale, seeds=seeds, device=chosen.device)
print(environment_report(scale=scale, seed=seed, device=chosen.device))
print(f"{chosen.ablation.step_bytes / 1e6:g} MB a step, seeds {seeds}, {chosen.ablation.items} items a column at most")

# %% [markdown]
# ## Two routers after the same steps
#
# Both students take steps 1.1 and 1.2, which no router touches, and then train their router by Eq. 4 alone.

# %%
teacher, variants = teacher_run(chosen, seed=seed), routers(chosen)
order = [variant.name for variant in variants]
trained = ablation.train(chosen, variants, seed=seed)
address = trained[order[0]][0][-1].hash[:16]
write("router_loss", ablation.loss_rows(trained), keys=["model", "task"], config_hash=address, wall_seconds=0.0)
tables.Table(results.read_results("router_loss", scale=scale), digits=4)

# %% [markdown]
# ## Boundary F1 on held-out text
#
# Against the teacher's tokens, in percent, with errors over seeds. Bytes whose boundary the format fixes do not count.

# %%
measurer, wall = Measurer(chosen, seed), time.monotonic()
write("router_f1", ablation.boundary_rows(measurer, trained), keys=["model", "corpus"], config_hash=address,
      wall_seconds=time.monotonic() - wall)
tables.Table(results.read_results("router_f1", scale=scale))

# %% [markdown]
# ## Table 9
#
# Accuracy along each router's own boundaries. Beside it the first student along the teacher's boundaries: the
# difference is what wrong cuts cost, encoder and core being the same.

# %%
wall, name = time.monotonic(), "integrated, teacher's boundaries"
measured = ablation.measure(measurer, trained, "stage1/router")
measured |= {name: ablation.measure(measurer, {name: trained["integrated"]}, "stage1/tokenizer")[name]}
order = [*order, name]
write("router", ablation.accuracy_rows(measured), keys=["model", "task"], config_hash=address,
      wall_seconds=time.monotonic() - wall)
found = results.read_results("router", scale=scale)
tables.Table(ablations.table(found, order))

# %%
taught = measurer.columns(teacher, "token", items=chosen.ablation.items)
write("router_teacher", column_rows("teacher", taught), keys=["model", "task"], config_hash=address, wall_seconds=0.0)
level = results.read_results("router_teacher", scale=scale)
picture = ablations.accuracy_figure(found, order, teacher=level)
display(Image(figures.save(picture, "router", frames=[found, level])))

# %% [markdown]
# The paper's, as printed:

# %%
tables.Table(tables.published("table09_router"), digits=1)

# %% [markdown]
# ## The claims
#
# The integrated router minus the split one, and the teacher's boundaries minus the integrated router's: what wrong cuts
# cost, in points.

# %%
rows = (ablation.difference_rows(measured, "integrated", ["split"])
        + ablation.difference_rows(measured, name, ["integrated", "split"]))
write("router_difference", rows, keys=["what", "task"], config_hash=address, wall_seconds=0.0)
tables.Table(ablations.verdicts(results.read_results("router_difference", scale=scale)))

# %% [markdown]
# ## What could not be reproduced
#
# The paper's split router is four layers of width 512 and does not say how it looks ahead; here it is a smaller stack
# that sees the byte ahead, as the integrated one does, so that the comparison is one of features. Routers here read far
# fewer bytes than at the main run of this scale, and one teacher serves all seeds.
