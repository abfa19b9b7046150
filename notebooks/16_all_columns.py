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
# # 16 · All nine columns, and the letters of words
#
# The paper's main table has nine columns, and the world of notebooks 00 to 09 teaches four of them, which is quick.
# Here teacher and student read the whole world (`world_full`), which teaches all nine, and what CUTE asks about the
# letters of words; at `smoke` and `small` the teacher has read pairs and lists before, to learn to look back. The steps
# are those of notebooks 01 and 02.
#
# **Claims:** the teacher is above chance on every column; both stages keep most of it (Table 1). **Beyond the paper:**
# does a model of bytes know letters that a model of tokens does not see? **Cost:** two CPU cores; minutes, memory, what
# it reads and writes: [docs/notebooks.md](../docs/notebooks.md).

# %% tags=["parameters"]
scale = "smoke"
seed = 0

# %%
import pandas as pd
from IPython.display import Image

from dbyte import presets
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate import stats
from dbyte.evaluate.measure import Measurer, bits_row, boundary_row, column_rows
from dbyte_paper import figures, results, tables
from dbyte_paper.published import published
from dbyte_tasks import minibench
from dbyte_tasks.minibench import MINI_CUTE
from dbyte_tasks.world.letters import SUBJECTS

# %%
chosen = presets.whole_world(presets.scale(scale))
record = results.begin(chosen.name, seeds=[seed], device=chosen.device)
print(chosen.corpora)

# %%
teacher = teacher_run(chosen, seed=seed)
runs = run_steps(chosen, curriculum(chosen), seed=seed)
for run in runs:
    print({name: run.facts()[name] for name in ("step", "updates", "train_bytes", "seconds")})
models = {"teacher": (teacher, "token"),
          "stage1, tokenizer's boundaries": (runs[2].model_folder, "stage1/tokenizer"),
          "stage1": (runs[2].model_folder, "stage1/router"), "stage2": (runs[4].model_folder, "stage2/router")}

# %% [markdown]
# ## The nine columns
#
# One item of each, then Table 1 on them. GSM8K and SPELL are written and matched. SPELL is no column of the paper's and
# is in no average.

# %%
for name, column in minibench.EVERY.items():
    print(f"{name:7s} chance {column.chance:.2f}", column.items(1)[0])

# %%
measurer = Measurer(chosen, seed)
found = {}
with record("all_columns", keys=["model", "task"], of=runs[4]) as rows:
    for model, how in models.items():
        found[model] = measurer.columns(*how)
        rows += column_rows(model, found[model])
every = record.read("all_columns")
tables.Table(tables.main_table(every), digits=1)

# %%
picture = figures.retention_figure(every, paper=figures.paper_rows(published("table01_main")))
Image(figures.save(picture, "all_columns", frames=[every], published=["table01_main"]))

# %% [markdown]
# Is the teacher above chance on every column, and on each subject of MMLU? Points above chance, with Wilson's interval
# of 95 %:

# %%
asked = {task: (one.correct, one.chance) for task, one in found["teacher"].items()}
right, chance = asked["MMLU"]
subjects = [row["subject"] for row in minibench.items("MMLU", len(right))]
for subject in SUBJECTS:
    asked[f"MMLU, {subject}"] = [mark for mark, each in zip(right, subjects, strict=True) if each == subject], chance

# %%
with record("above_chance", keys=["task"], of=runs[4]) as rows:
    for task, (marks, chance) in asked.items():
        share = stats.wilson(marks)
        rows.append({"task": task, "stderr": 100 * stats.proportion(marks).stderr, "n": len(marks),
                     "chance": 100 * chance, "value": 100 * (share.value - chance), "low": 100 * (share.low - chance),
                     "high": 100 * (share.high - chance),
                     "verdict": stats.verdict(share.low, share.high, threshold=chance)})
tables.Table(record.read("above_chance"), digits=1)

# %% [markdown]
# What the stages keep and lose over the paper's columns, with the bounds that this project asks of `small`. Errors take
# the models as independent, which on the same items makes them too wide, not too narrow.

# %%
levels = {model: rows.set_index("task") for model, rows in tables.of_paper(every).groupby("model")}
n = int(levels["teacher"]["n"].sum())
targets = []
for model, bound in {"stage1": 97, "stage2": 90}.items():
    kept = tables.retention_of_means(levels["teacher"], levels[model])
    targets.append(tables.target(f"retention %, {model}", kept.value, n, kept.stderr, at_least=bound))
lost = tables.average_drop(levels["stage1"], levels["stage2"])
what = "Stage 1 above Stage 2, points of average accuracy"
targets.append(tables.target(what, lost.value, n, lost.stderr, at_least=0))
tables.Table(pd.DataFrame(targets))

# %% [markdown]
# ## Letters: MiniCUTE
#
# Seven of CUTE's kinds, asked of words that are made up and held out. The teacher must have learned what its tokens are
# spelt like; Stage 1 reads bytes and writes tokens, Stage 2 reads and writes bytes. Stage 1 is distilled from the
# teacher; steps 2.1 and 2.2 learn from the text.

# %%
for name, column in MINI_CUTE.items():
    print(f"{name:13s}", column.items(1)[0])

# %%
letters = {}
with record("mini_cute", keys=["model", "task"], of=runs[4]) as rows:
    for model in ("teacher", "stage1", "stage2"):
        letters[model] = {}
        for name, column in MINI_CUTE.items():
            letters[model][name] = measurer.column(*models[model], column, items=chosen.items)
        rows += column_rows(model, letters[model])
tables.Table(tables.main_table(record.read("mini_cute")), digits=1)

# %%
spelt = {model: {name: one.correct for name, one in columns.items()} for model, columns in letters.items()}
with record("mini_cute_difference", keys=["what", "task"], of=runs[4]) as rows:
    for one, other in (("stage2", "teacher"), ("stage2", "stage1"), ("stage1", "teacher")):
        rows += stats.difference_rows(f"letters: {one} ahead of {other}", spelt[one], spelt[other])
tables.Table(tables.differences(record.read("mini_cute_difference")))

# %% [markdown]
# ## Real prose, and the router
#
# Bits per byte on held-out documents, and the router's agreement with the teacher's tokens (F1 in percent).

# %%
names = [name for name, _ in chosen.corpora]
with record("bits_all_columns", keys=["model", "corpus"], of=runs[4]) as rows:
    for model, how in models.items():
        for name in names:
            rows.append(bits_row(model, name, measurer.bits(*how, name)))
tables.Table(record.read("bits_all_columns"), digits=4)

# %%
with record("boundaries_all_columns", keys=["model", "corpus"], of=runs[4]) as rows:
    for stage, run in (("stage1", runs[2]), ("stage2", runs[4])):
        for name in names:
            rows.append({"model": stage} | boundary_row(name, measurer.boundaries(run.model_folder, name)))
tables.Table(record.read("boundaries_all_columns"))

# %% [markdown]
# ## What could not be reproduced
#
# The paper's columns are real benchmarks; `python -m dbyte evaluate --tasks paper` asks those of a real student, and
# models of this size are at chance there. Of the three subjects of MMLU this teacher has learned `lists` only. The
# others need two steps, to find the answer and then its letter, which is one too many for it: see docs/log.md. CUTE's
# kinds that take a dictionary are left out.
