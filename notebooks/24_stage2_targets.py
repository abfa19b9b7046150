# ---
# jupyter:
#   dbyte:
#     needs: ['00', '01', '02']
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 24 · Stage 2 from what the teacher says of bytes
#
# The paper's Stage 2 learns the next byte and whether its chunk ends there from the text alone, along the router's
# boundaries. A token model says more: within each of its tokens it has a distribution over the 512 symbols that the
# byte head has (`dbyte/byte_probabilities/within_token.py`). Here Stage 2 learns from that, at equal bytes, and next to
# it from the text's own symbols along the same tokens, which is the control, and from half of each. The last row has
# the paper's labels, and a decoder that begins from what the token head says (`dbyte/model/token_prior.py`). All
# continue the Stage 1 of notebook 01, which is itself a model of bytes, read through its token head, and is scored too.
#
# **Claims:** none of the papers'; the goals are that the teacher's distribution halves what Stage 2 loses, or needs a
# third of the bytes. **Cost:** the dearest part is the largest budget, which one student of the rows that the goals are
# about reads; [docs/notebooks.md](../docs/notebooks.md).

# %% tags=["parameters"]
scale = "smoke"
seed = 0
ablation_seeds = None  # as many as the scale has
budgets = None  # bytes of Stage 2, such as [1_000_000], None: the scale's

# %%
from IPython.display import Image

from dbyte import presets
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.measure import Measurer, bits_row
from dbyte.model.student import ByteStudent
from dbyte_paper import ablation_runs, ablations, baselines, evidence, figures, results, tables
from dbyte_paper import stage2_targets as targets
from dbyte_paper.speed import speed_rows

# %%
chosen = presets.changed(presets.scale(scale), ablation_seeds=ablation_seeds)
students = chosen.ablation.seeds
record = results.begin(chosen.name, seeds=[seed + k for k in range(students)], device=chosen.device)
measurer = Measurer(chosen, seed, drawn=evidence.REPORTING)
teacher = teacher_run(chosen, seed=seed)
level = measurer.columns(teacher, "token", items=chosen.ablation.items)
sizes = sorted(budgets or baselines.budgets(chosen))
swept = sizes[:2][-1]
print(f"Stage 2 of {', '.join(f'{size / 1e6:g}' for size in sizes)} MB; rates are chosen at {swept / 1e6:g}")

# %% [markdown]
# ## Rates
#
# A third, one and three times all rates of Stage 2, for each row; the best by items that no table reports is kept.

# %%
rates = targets.best_rates(chosen, swept, seed=seed)
for name, factor in rates.items():
    print(f"{name:22s} rates times {factor:.3g}")

# %% [markdown]
# ## At each budget
#
# Up to the budget of the sweep all rows are trained, above it those that the goals are about; the largest of several
# budgets by one student, the others by all seeds.

# %%
of_all_seeds = {}
found = {"targets_dose": [], "targets_kept": [], "targets_bits": [], "targets_goal": []}
for size in sizes:
    kept = {name: rate for name, rate in rates.items() if size <= swept or name in targets.JUDGED}
    alone = swept < size == sizes[-1]
    trained = targets.train(chosen, kept, size, seed=seed, students=1 if alone else students)
    arms = targets.arms(kept, size)
    measured = baselines.measure(measurer, trained)
    of_all_seeds = of_all_seeds if alone else measured
    found["targets_dose"] += ablation_runs.accuracy_rows(measured, arms=arms)
    found["targets_kept"] += baselines.kept_rows(measured, level, arms)
    found["targets_bits"] += baselines.bits_rows(measurer, trained, arms)
    found["targets_goal"] += targets.goal_rows(measured, level, size)

# %%
last = trained[targets.LABELS][0][-1]
for file, rows_found in found.items():
    if rows_found:  # of a teacher at chance nothing above chance can be kept
        key = {"targets_bits": ["model", "corpus", "budget"], "targets_goal": ["what", "task", "train_bytes"]}
        with record(file, keys=key.get(file, ["model", "task", "budget"]), of=last) as rows:
            rows += rows_found
bits = record.read("targets_bits")
kept = record.read("targets_kept") if found["targets_kept"] else None

# %%
curves = [None if one is None else one[one.model != baselines.STAGE1] for one in (kept, bits)]
picture = baselines.recipes_figure(*curves, list(rates))
Image(figures.save(picture, "stage2_targets", frames=[one for one in curves if one is not None]))

# %% [markdown]
# Bits per byte of held-out text, by the joint score, which is a bound for all but Stage 1. The teacher's, and those of
# Stage 1 through its token head along the router's boundaries, stand beside:

# %%
with record("targets_teacher", keys=["model", "corpus"], of=last) as rows:
    rows += [bits_row("teacher", corpus, measurer.bits(teacher, "token", corpus)) for corpus, _ in chosen.corpora]
of_teacher = record.read("targets_teacher").set_index("corpus")["value"]
print({corpus: round(value, 4) for corpus, value in of_teacher.items()})
table = bits[["corpus", "model", "budget", "value", "stderr", "rate", "n", "seeds"]]
tables.Table(table.sort_values(["corpus", "budget", "value"]), digits=4)

# %% [markdown]
# ## Accuracy
#
# On average over columns, and what is kept of the teacher above chance, in percent:

# %%
dose = record.read("targets_dose")
columns = ["budget", "model", "value", "stderr", "rate", "n", "seeds"]
tables.Table(dose[dose.task == "average"][columns].sort_values(["budget", "value"]), digits=1)

# %%
shown = kept[["budget", "model", "value", "low", "high", "seeds"]] if kept is not None else dose[:0]
tables.Table(shown.sort_values(["budget", "value"]), digits=1) if len(shown) else "the teacher is at chance"

# %% [markdown]
# ## Is the loss of Stage 2 halved?
#
# In points of accuracy, by how much each row is above half of the drop from the teacher that `labels` has at equal
# bytes: above zero, its drop is less than half of that.

# %%
goal = record.read("targets_goal")
tables.Table(goal[["train_bytes", "what", "value", "low", "high", "verdict", "drop", "drop_of_labels", "seeds"]]
             .sort_values("train_bytes"), digits=1)

# %% [markdown]
# In bits: what each row has above the teacher, in percent of what `labels` has above it at equal bytes; the goal is 50.

# %%
shares = targets.excess_rows(bits, of_teacher)
if shares:
    with record("targets_excess", keys=["what", "corpus", "train_bytes"], of=last) as rows:
        rows += shares
    shares = record.read("targets_excess")[["corpus", "train_bytes", "what", "value", "low", "high", "seeds",
                                              "verdict"]]
tables.Table(shares, digits=1) if len(shares) else "some row has no more bits than the teacher"

# %% [markdown]
# ## Or a third of the bytes?
#
# The bytes that `labels` needs, over those of the other row, at the least bits per byte that both reach; the goal is 3.

# %%
with record("targets_ratio", keys=["what", "corpus", "budgets"], of=last) as rows:
    rows += targets.ratio_rows(bits)
ratio = record.read("targets_ratio")
tables.Table(ratio[["corpus", "what", "value", "low", "high", "bound", "budgets", "seeds", "verdict"]], digits=2)

# %% [markdown]
# ## Stage 1 writes bytes, too
#
# A finished Stage 1 is a model of bytes by its token head. Its bits are above. In points of accuracy, by how much it is
# ahead of each Stage 2 of the largest budget that all seeds have:

# %%
with record("targets_stage1", keys=["what", "task"], of=last) as rows:
    rows += ablation_runs.variant_difference_rows(of_all_seeds, baselines.STAGE1)
tables.Table(ablations.differences(record.read("targets_stage1")))

# %% [markdown]
# How fast it writes, next to the last students of `labels` and of the decoder that begins from the token head, in bytes
# a second:

# %%
fast = {name: ByteStudent.from_pretrained(trained[name][0][-1].model_folder).to(chosen.device)
        for name in (targets.LABELS, targets.PRIOR)}
with record("targets_speed", keys=["decoder", "rows"], of=last) as rows:
    rows += speed_rows(fast, teacher, size=chosen.row_bytes // 8)
tables.Table(record.read("targets_speed"), digits=0)

# %% [markdown]
# ## What could not be reproduced
#
# Nothing of this is in the paper, whose Stage 2 reads billions of bytes. One teacher serves all seeds, and rates are
# chosen at one budget by one seed. The joint score of Stage 2 is a bound, that of Stage 1 and of the teacher are sums
# over one way to cut the text, so bits per byte are compared between bounds.
