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
# # 19 · Table 3 at matched rates, and the curriculum against the dose
#
# Two comparisons of notebooks 04 and 14 again, as the rules for claims ask (docs/evaluation.md): every arm reads as
# many bytes, each at the best of its own three rates, which were chosen by items that are not reported.
#
# **Claims:** aligning first is ahead of distilling alone (section 6.1, Table 3); three steps in sequence are ahead of
# the joint objective (section 4.2.1). **Cost:** docs/log.md, [docs/notebooks.md](../docs/notebooks.md).

# %% tags=["parameters"]
scale = "smoke"
seed = 0
ablation_seeds = None  # as many as the scale has

# %%
from IPython.display import Image

from dbyte import presets
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.measure import Measurer, column_rows
from dbyte_paper import ablation_runs, ablations, evidence, figures, results, tables

# %%
chosen = presets.changed(presets.scale(scale), ablation_seeds=ablation_seeds)
record = results.begin(chosen.name, seeds=[seed + k for k in range(chosen.ablation.seeds)], device=chosen.device)
measurer = Measurer(chosen, seed, drawn=evidence.REPORTING)
teacher = teacher_run(chosen, seed=seed)

# %% [markdown]
# ## Table 3: with and without alignment
#
# Before, the encoder of `distil only` began from random weights at the low rates of step 1.2. Here it has those of step
# 1.1, and its sweep includes lower and higher ones.

# %%
variants = evidence.at_best_rate(chosen, evidence.rate_matched(chosen), "stage1/tokenizer", seed=seed)
trained = ablation_runs.train(chosen, variants, seed=seed)
measured = ablation_runs.measure(measurer, trained, "stage1/tokenizer")
first = variants[0].name
with record("rates", keys=["model", "task"], of=trained[first][0][-1]) as rows:
    rows += ablation_runs.accuracy_rows(measured, arms=evidence.arms(variants))
found = record.read("rates")
tables.Table(found[["model", "task", "value", "stderr", "n", "clusters", "seeds", "train_bytes", "rate"]], digits=1)

# %%
with record("rates_difference", keys=["what", "task"], of=trained[first][0][-1]) as rows:
    rows += ablation_runs.variant_difference_rows(measured, first)
tables.Table(ablations.differences(record.read("rates_difference")))

# %% [markdown]
# ## Section 4.2.1: sequence and joint objective against the dose
#
# Half of the sequence's bytes go to step 1.1. Read along both kinds of boundaries: the tokenizer's tell the encoder
# apart from the router. Rates are chosen at the second dose and kept. The claim is judged at the largest dose but one,
# which has all seeds; the others have one student each, since they only show the curve. It is judged if the largest
# dose adds less than two points to the sequence along the tokenizer's boundaries (`gained`): else more of step 1.1
# would have been the better use of the bytes. (`falling`, by how many percent the loss of the first step still fell
# over its last quarter, does not tell that: it is a squared distance, which nears zero for as long as rates fall.)

# %%
several = evidence.doses(chosen)
swept = evidence.at_best_rate(chosen, several[1][1], "stage1/router", seed=seed, batch_rows=chosen.batch_rows)
rates = {variant.name: variant.rate for variant in swept}
alone = presets.changed(chosen, ablation_seeds=1)
dose = []
for at, pair in (*several[:-2], several[-1], several[-2]):
    variants = [evidence.at_rate(variant, rates[variant.name]) for variant in pair]
    of = chosen if at == several[-2][0] else alone
    trained = ablation_runs.train(of, variants, seed=seed, batch_rows=chosen.batch_rows)
    falls = evidence.falling(trained)
    arms = {name: arm | {"falling": falls[name]} for name, arm in evidence.arms(variants).items()}
    for reading in ("tokenizer", "router"):
        measured = ablation_runs.measure(measurer, trained, f"stage1/{reading}")
        dose += ablation_runs.accuracy_rows(measured, arms=arms, reading=reading)

# %%
last = trained[pair[0].name][0][-1]
with record("dose", keys=["model", "task", "train_bytes", "reading"], of=last) as rows:
    rows += dose
every = record.read("dose")
average = every[every.task == "average"].sort_values(["reading", "model", "train_bytes"])
tables.Table(average[["reading", "model", "train_bytes", "value", "stderr", "falling", "rate", "n", "seeds"]], digits=1)

# %%
with record("dose_teacher", keys=["model", "task"], of=last) as rows:
    rows += column_rows("teacher", measurer.columns(teacher, "token", items=chosen.ablation.items))
level = record.read("dose_teacher")
routed = every[every.reading == "router"]
picture = ablations.curves_figure(routed, sorted(set(routed.model)), teacher=level)
Image(figures.save(picture, "dose", frames=[every, level]))

# %% [markdown]
# The dose that is judged, along the router's boundaries:

# %%
gained = evidence.gained(average[average.reading == "tokenizer"].to_dict("records"))
arms = {name: arm | {"gained": gained[name]} for name, arm in arms.items()}
with record("dose_last", keys=["model", "task"], of=last) as rows:
    rows += ablation_runs.accuracy_rows(measured, arms=arms)
with record("dose_last_difference", keys=["what", "task"], of=last) as rows:
    rows += ablation_runs.variant_difference_rows(measured, pair[0].name)
tables.Table(ablations.differences(record.read("dose_last_difference")))

# %% [markdown]
# ## What could not be reproduced
#
# One teacher serves all seeds. The joint objective has one choice of weights here; notebook 14 sweeps them.
