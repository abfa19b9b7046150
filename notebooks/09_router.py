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
# # 09 · The router: reading the encoder, or on its own
#
# The paper's appendix B and its Table 9. The router reads the encoder's hidden states; the alternative is a small
# stack of Mamba2 of its own over the raw bytes.
#
# **Claims:** the integrated router keeps more of the teacher than a split one. **Beyond the paper:** does it depend on
# how the router is trained, by step 1.3 alone on a frozen encoder (the paper) or by Eq. 4 beside the other objectives
# from step 1.1 on; and what do wrong boundaries cost? **Cost:** two CPU cores; minutes, memory, what it reads and
# writes: [docs/notebooks.md](../docs/notebooks.md).

# %% tags=["parameters"]
scale = "smoke"
seed = 0
ablation_seeds = None  # as many as the scale has

# %%
from IPython.display import Image

from dbyte import presets
from dbyte.distill.steps import ROUTER
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.measure import Measurer, column_rows
from dbyte_paper import ablation_runs, ablations, evidence, figures, results, tables

# %%
chosen = presets.changed(presets.scale(scale), ablation_seeds=ablation_seeds)
seeds = [seed + k for k in range(chosen.ablation.seeds)]
record = results.begin(chosen.name, seeds=seeds, device=chosen.device)
several = evidence.routers(chosen)
for step in several[-1][1][0].steps:
    print(f"{step.name}: {step.train_bytes / 1e6:g} MB at most")
print(f"seeds {seeds}, {chosen.ablation.items} fresh items a column at most")

# %% [markdown]
# ## Two routers, two ways to train them, three budgets
#
# All students take steps 1.1 to 1.3 and read as many bytes. The rows `Eq. 4` train their router in all three steps, the
# others in step 1.3 alone, whose bytes differ from budget to budget. Both routers have as many parameters. A third, one
# and three times the router's rates are tried at the smallest budget, by items that no table reports. The smaller
# budgets are trained with the first seed alone: they show a trend and carry no claim.

# %%
teacher = teacher_run(chosen, seed=seed)
swept = evidence.at_best_rate(chosen, several[0][1], "stage1/router", seed=seed, parts=ROUTER)
rates = {variant.name: variant.rate for variant in swept}
measurer = Measurer(chosen, seed, drawn=evidence.REPORTING)
boundaries = []
for size, rows_of_table in several:
    variants = [evidence.at_rate(variant, rates[variant.name], ROUTER) for variant in rows_of_table]
    alone = presets.changed(chosen, ablation_seeds=1)
    trained = ablation_runs.train(chosen if size == several[-1][0] else alone, variants, seed=seed)
    boundaries += [row | {"train_bytes": size} for row in ablation_runs.boundary_rows(measurer, trained)]
integrated = trained["integrated"][0][-1]

# %%
with record("router_loss", keys=["model", "task"], of=integrated) as rows:
    rows += ablation_runs.loss_rows(trained)
tables.Table(record.read("router_loss"), digits=4)

# %% [markdown]
# ## Boundary F1 on held-out text
#
# Against the teacher's tokens, in percent, with errors over seeds. Bytes whose boundary the format fixes do not count.

# %%
with record("router_f1", keys=["model", "corpus", "train_bytes"], of=integrated) as rows:
    rows += boundaries
found = record.read("router_f1")
tables.Table(tables.estimates(found, rows=["corpus", "train_bytes"], columns="model", order=list(rates)))

# %%
corpus = chosen.corpora[-1][0]
missed = found[found.corpus == corpus]
missed = missed.assign(value=100 - missed.value)
picture = ablations.loss_figure(missed, list(rates), label=f"100 - F1 (%), {corpus}")
Image(figures.save(picture, "router_f1", frames=[found]))

# %% [markdown]
# ## Table 9
#
# After the largest budget: accuracy along each router's own boundaries. Further rows have a student along the teacher's
# boundaries: encoder and core are the same, so the difference is what wrong boundaries cost. `gained` says how many
# points of F1 a router won from the budget before to the largest.

# %%
arms = evidence.arms(variants, gained=evidence.gained(boundaries), parameters=ablation_runs.sizes(trained, "router"))
ideal = {f"{name}, teacher's boundaries": trained[name] for name in ("integrated", "integrated" + evidence.BESIDE)}
measured = ablation_runs.measure(measurer, trained, "stage1/router")
measured |= ablation_runs.measure(measurer, ideal, "stage1/tokenizer")

# %%
with record("router", keys=["model", "task"], of=integrated) as rows:
    rows += ablation_runs.accuracy_rows(measured, arms=arms)
found = record.read("router")
tables.Table(ablations.table(found, list(measured)))

# %%
average = found[(found.task == "average") & found.rate.notna()]
tables.Table(average[["model", "value", "gained", "rate", "parameters", "train_bytes", "seeds"]], digits=1)

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
# The integrated router minus the split one, trained as in the paper; and the teacher's boundaries minus each router's:
# what wrong boundaries cost, in points.

# %%
best = "integrated, teacher's boundaries"
with record("router_difference", keys=["what", "task"], of=integrated) as rows:
    rows += ablation_runs.variant_difference_rows(measured, "integrated", ["split"])
    rows += ablation_runs.variant_difference_rows(measured, best, ["integrated", "split"])
tables.Table(ablations.differences(record.read("router_difference")))

# %% [markdown]
# With Eq. 4 from the start, and what that adds to each router:

# %%
beside = {name: name + evidence.BESIDE for name in ("integrated", "split")}
with record("router_beside_difference", keys=["what", "task"], of=integrated) as rows:
    rows += ablation_runs.variant_difference_rows(measured, beside["integrated"], [beside["split"]])
    for name, other in beside.items():
        rows += ablation_runs.variant_difference_rows(measured, other, [name])
    rows += ablation_runs.variant_difference_rows(measured, f"{beside['integrated']}, teacher's boundaries", [best])
tables.Table(ablations.differences(record.read("router_beside_difference")))

# %% [markdown]
# ## What could not be reproduced
#
# The paper's split router is four layers of width 512 beside an encoder of width 1536, and it does not say how it looks
# ahead. At the small scales it is a smaller stack; it sees the byte ahead, as the integrated one does, so that the
# comparison is one of features. Where the integrated router is a SwiGLU network, its width here is what makes both
# equally large, not that of the scale. Routers read fewer bytes than at the main run of this scale, and one teacher
# serves all seeds.
