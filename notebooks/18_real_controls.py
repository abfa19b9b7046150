# ---
# jupyter:
#   dbyte:
#     needs: ['00', '01', '02', '17']
#     scale: real
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 18 · The same teacher: two phases, what step 1.1 is worth, and character noise
#
# Three questions about the students of notebook 17. How they come closer to their teacher (Figure 2). What step 1.1 is
# worth: a control leaves it out, at as many training FLOPs. And Table 6: how much accuracy is left where letters are
# dropped, repeated or in another case.
#
# **Claims:** without alignment the same FLOPs buy a student further from its teacher; a byte-level student loses less
# to noise than its teacher.
# **Cost:** at `real` about an hour of two CPU cores, half of it the training of the control, which resumes where it
# stopped; at `smoke` a minute after notebook 17. What it took is in [docs/notebooks.md](../docs/notebooks.md).

# %% tags=["parameters"]
scale = "smoke"
seed = 0

# %%
from IPython.display import Image

from dbyte import presets
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.measure import Measurer
from dbyte_paper import ablations, figures, real_teacher, results, tables, under_noise
from dbyte_paper.ablation_runs import curriculum_rows

# %%
chosen = presets.scale(scale)
record = results.begin(chosen.name, seeds=[seed], device=chosen.device)
measurer = Measurer(chosen, seed)
teacher = teacher_run(chosen, seed=seed)
runs = run_steps(chosen, curriculum(chosen), seed=seed)

# %% [markdown]
# ## Figure 2: two phases
#
# After each model that steps 1.1 and 1.2 kept on their way: the divergence from the teacher, and the accuracy on two
# columns with fewer items than above. All along the tokenizer's boundaries.

# %%
with record("real_divergence", keys=["model", "corpus", "train_bytes"], of=runs[1]) as rows:
    rows += real_teacher.divergence_rows(measurer, runs[:2], teacher)
divergence = record.read("real_divergence")
lines = divergence.assign(model=divergence.model + ", " + divergence.corpus)
lines.attrs = divergence.attrs
picture = ablations.loss_figure(lines, sorted(lines.model.unique()), label=real_teacher.KL)
Image(figures.save(picture, "real_divergence", frames=[divergence]))

# %%
watched = ["LMB", "PIQA"]
with record("real_dynamics", keys=["model", "task", "train_bytes"], of=runs[1]) as rows:
    rows += curriculum_rows(measurer, runs, teacher, only=watched)
dynamics = record.read("real_dynamics")
of_teacher = dynamics[dynamics.model == "teacher"]
steps = dynamics[dynamics.model == "student"].assign(model="step " + dynamics.step)
picture = ablations.curves_figure(steps, ["step 1.1", "step 1.2"], teacher=of_teacher)
Image(figures.save(picture, "real_dynamics", frames=[dynamics]))

# %% [markdown]
# ## What step 1.1 is worth
#
# The control has no step 1.1. It begins with step 1.2, at the rates of step 1.1 for its untrained encoder, and reads
# as many bytes as the training FLOPs of both steps buy. Both are read along the tokenizer's boundaries.

# %%
step = real_teacher.without_alignment(chosen, runs, teacher, seed=seed)
control = run_steps(chosen, (step,), seed=seed)[0]
pair = {"teacher": (teacher, "token"), "1.1, then 1.2": (runs[1].model_folder, "stage1/tokenizer"),
        "1.2 alone": (control.model_folder, "stage1/tokenizer")}
with record("real_control", keys=["corpus", "measure", "model"], of=control) as rows:
    rows += real_teacher.text_rows(measurer, pair)
without = record.read("real_control")
print(f"1.2 alone: {step.train_bytes / 1e6:.2f} MB; with 1.1: {runs[0].facts()['train_bytes'] / 1e6:.2f} MB of 1.1 and "
      f"{runs[1].facts()['train_bytes'] / 1e6:.2f} MB of 1.2")
tables.Table(tables.estimates(without, rows=["corpus", "measure"], columns="model", order=list(pair), digits=3))

# %% [markdown]
# ## Table 6: character noise
#
# Accuracy in percent, clean and under the five perturbations, each in prompt, completion and both, which are averaged.
# At `real` on HellaSwag, as in the paper; elsewhere on the columns of notebook 08.

# %%
asked = min(chosen.dynamics_items, chosen.ablation.items)
readers = {"teacher": (teacher, "token"), "stage1": (runs[2].model_folder, "stage1/router"),
           "stage2": (runs[4].model_folder, "stage2/router")}
chance = under_noise.chances(chosen)
noisy = {}
with record("real_noise", keys=["model", "task", "kind"], of=runs[4]) as rows:
    for model, how in readers.items():
        noisy[model] = under_noise.answers(measurer, *how, items=asked)
        rows += under_noise.noise_rows(model, noisy[model], chance)
noise = record.read("real_noise")
tables.Table(tables.by_noise(noise, models=list(readers)))

# %% [markdown]
# Where a model is within two standard errors of guessing on clean text, its row says nothing about noise:

# %%
for row in noise[(noise.kind == "clean") & (noise.task != "average")].itertuples():
    says = "" if row.value > row.chance + 2 * row.stderr else ": uninformative"
    print(f"{row.model}, {row.task}: {row.value:.1f} ± {row.stderr:.1f}, chance {row.chance:.0f}{says}")

# %%
Image(figures.save(figures.robustness_figure(noise), "real_noise", frames=[noise]))

# %% [markdown]
# ## What could not be reproduced
#
# The paper's Table 3 varies the bytes of step 1.1 over a billion-parameter teacher; here there is one budget, one seed,
# and a control. Few items are asked under noise, as its intervals show.
