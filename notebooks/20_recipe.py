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
# # 20 · The recipe: what each departure is worth, and how much of it is one teacher's luck
#
# The students of the other notebooks depart from the paper's recipe in three ways: Eq. 4 trains beside the other
# objectives, matrices are trained by Muon, and the router has a SwiGLU network in place of two linear maps. Here every
# choice of the three is trained at the main budget (at `smoke` at a share of it), the paper's own recipe word for word
# among them (AdamW, one objective a step, two linear maps, step 1.3 alone). Then the main recipe is repeated with other
# teachers.
#
# **Claims:** what Table 1 says is asked of the paper's own recipe, too. **Beyond the paper:** the worth of each
# departure, and the spread between teachers. **Cost:** `python -m dbyte plan` and docs/log.md; it is the dearest of
# the notebooks. What it reads and writes: [docs/notebooks.md](../docs/notebooks.md).

# %% tags=["parameters"]
scale = "smoke"
seed = 0
teachers = None  # as many as the scale's ablations have seeds, at least two
students = 2

# %%
from dbyte import presets
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.measure import Measurer
from dbyte_paper import ablation_runs, evidence, results, tables
from dbyte_paper.variants import Variant, run_variant

# %%
chosen = presets.scale(scale)
teachers = teachers or max(chosen.ablation.seeds, 2)
record = results.begin(chosen.name, seeds=[seed + k for k in range(max(teachers, students))], device=chosen.device)
share = chosen.ablation.recipe_share
print(f"{teachers} teachers, {students} students each, {100 * share:g} % of the main budget, "
      f"{chosen.ablation.items} fresh items a column at most")

# %% [markdown]
# ## Rates
#
# A tenth of the bytes at a third, one and three times all rates, for each recipe; the best by held-out items that no
# table reports is kept.

# %%
recipes = [evidence.sized(variant, share) for variant in evidence.recipes(chosen)]
variants = evidence.at_best_rate(chosen, recipes, "stage2/router", seed=seed, share=0.1, batch_rows=chosen.batch_rows)
for variant in variants:
    print(f"{variant.name:22s} rates times {variant.rate:.3g}")

# %% [markdown]
# ## Every choice of the departures
#
# One teacher, one student of each recipe. The row `as in the paper` is the paper's recipe, word for word.

# %%
teacher = teacher_run(chosen, seed=seed)
measurer = Measurer(chosen, seed, drawn=evidence.REPORTING)
runs = {variant.name: run_variant(chosen, variant, seed=seed, teacher_seed=seed) for variant in variants}
stages = {}
for stage, last in (("stage1", 3), ("stage2", 5)):
    part = {f"{name}, {stage}": [steps[:last]] for name, steps in runs.items()}
    stages[stage] = ablation_runs.measure(measurer, part, f"{stage}/router")

# %%
arms = {f"{name}, {stage}": arm for name, arm in evidence.arms(variants).items() for stage in stages}
level = {"teacher": [measurer.columns(teacher, "token", items=chosen.ablation.items)]}
with record("recipe", keys=["model", "task"], of=runs[variants[0].name][-1]) as rows:
    for measured in (level, *stages.values()):
        rows += ablation_runs.accuracy_rows(measured, arms=arms)
found = record.read("recipe")
tables.Table(tables.main_table(found[found.task != "average"]))

# %% [markdown]
# What each departure adds, in points: the mean over the four pairs of recipes that differ in it alone.

# %%
with record("recipe_effects", keys=["stage", "what"], of=runs[variants[0].name][-1]) as rows:
    for stage, measured in stages.items():
        rows += [{"stage": stage} | row for row in evidence.effect_rows(measured, evidence.DEPARTURES)]
tables.Table(record.read("recipe_effects"), digits=1)

# %% [markdown]
# ## The main recipe with other teachers
#
# Each teacher begins from other weights and reads other documents of the same world; each has its own students. The
# intervals draw teachers, and for each of them students, and the items that all are asked.

# %%
main = evidence.sized(Variant("main", curriculum(chosen)), share).steps
by_teacher = {"stage1": [], "stage2": []}
for one in range(seed, seed + teachers):
    own = Measurer(chosen, one, drawn=evidence.REPORTING)
    taught = own.columns(teacher_run(chosen, seed=one), "token", items=chosen.ablation.items)
    several = {"": [run_steps(chosen, main, seed=one + k, teacher_seed=one) for k in range(students)]}
    for stage, last in (("stage1", 3), ("stage2", 5)):
        part = {"": [steps[:last] for steps in several[""]]}
        read = ablation_runs.measure(own, part, f"{stage}/router")[""]
        by_teacher[stage].append({"teacher": taught, "students": read})

# %%
with record("teachers_students", keys=["what", "task"], of=several[""][-1][-1]) as rows:
    for stage, measured in by_teacher.items():
        rows.append(evidence.nested_row(measured, f"{stage} - teacher"))
tables.Table(record.read("teachers_students"), digits=1)

# %% [markdown]
# ## What could not be reproduced
#
# The facts of the world are the same for all teachers, so the spread between worlds is not in these intervals. The
# rates of a recipe are chosen at a tenth of its bytes.
