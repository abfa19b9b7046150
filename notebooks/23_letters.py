# ---
# jupyter:
#   dbyte:
#     needs: ['00', '01']
#     scale: real
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 23 · Letters: CUTE, asked of one teacher and its student
#
# CUTE (arXiv 2409.15452) asks what a model knows of the letters of its words: to spell them, to put in, leave out or
# swap some, and what looks or means alike. A token model sees no letters; its student reads every one. Does it know
# more of them? At scale `real` both are those of notebook 17. Where `$DBYTE_DATA` has no folder `cute`, seven of CUTE's
# kinds are asked of the built-in world's words (MiniCUTE).
#
# **Claims:** none of the paper's, which does not ask this. **Cost:** at `real` minutes after Stage 1 of notebook 17;
# [docs/notebooks.md](../docs/notebooks.md) has what it took.

# %% tags=["parameters"]
scale = "smoke"
seed = 0
items = None  # of each kind; a hundredth of the scale's

# %%
import dbyte  # isort: skip (before torch: threads that wait then sleep)
from IPython.display import Markdown

from dbyte import presets
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate import stats
from dbyte.evaluate.measure import Measurer
from dbyte_paper import ablation_runs, real_teacher, results, tables
from dbyte_tasks.cute import CUTE
from dbyte_tasks.minibench import MINI_CUTE
from dbyte_tasks.paper import data_folder

# %%
chosen = presets.scale(scale)
record = results.begin(chosen.name, seeds=[seed], device=chosen.device)
items = items or max(chosen.items // 100, 1)
folder = data_folder()
kinds = CUTE if folder and (folder / "cute").is_dir() else MINI_CUTE
print(f"{'CUTE' if kinds is CUTE else 'MiniCUTE'}: {len(kinds)} kinds, {items} items each; dbyte {dbyte.__version__}")

# %% [markdown]
# ## Accuracy by kind
#
# The same items for all, with four worked examples in front (in words of this project's own), the answer written and
# matched exactly. Stage 1 reads bytes and writes tokens. Stage 2 is not asked: at this scale it has not learnt to write
# words yet (notebook 17). Few items of each kind, so only the average over all kinds is judged.

# %%
final = run_steps(chosen, curriculum(chosen)[:3], seed=seed)[-1]
teacher, _, *students, _ = real_teacher.MODELS
models = {teacher: (teacher_run(chosen, seed=seed), "token")}
models |= {name: (final.model_folder, reading)
           for name, reading in zip(students, ("stage1/tokenizer", "stage1/router"), strict=True)}
measurer = Measurer(chosen, seed)
found = {model: {name: measurer.column(*how, column, items=items) for name, column in kinds.items()}
         for model, how in models.items()}

# %%
with record("real_letters", keys=["model", "task"], of=final) as rows:
    rows += ablation_runs.accuracy_rows({model: [columns] for model, columns in found.items()})
letters = record.read("real_letters")
table = tables.estimates(letters, rows=["task"], columns="model", order=list(models))
tables.Table(table.assign(chance=table["task"].map(letters.groupby("task")["chance"].first())))

# %% [markdown]
# Paired differences on the same items, in points, with bootstrap intervals of 95 %:

# %%
correct = {model: {name: one.correct for name, one in columns.items()} for model, columns in found.items()}
with record("real_letters_difference", keys=["what", "task"], of=final) as rows:
    for name in students:
        rows += stats.difference_rows(f"letters: {name} ahead of {teacher}", correct[name], correct[teacher])
differences = record.read("real_letters_difference")
differences = differences[differences.task == stats.AVERAGE]
tables.Table(tables.differences(differences))

# %%
average = letters[letters.task == stats.AVERAGE].set_index("model")
levels = "; ".join(f"{model} {tables.with_error(row.value, row.stderr)}" for model, row in average.iterrows())
ahead = [row for row in differences.itertuples() if row.low > 0]
said = ", ".join(row.what.removeprefix("letters: ").removesuffix(f" ahead of {teacher}") for row in ahead)
Markdown(f"At scale `{chosen.name}`, in percent of {int(average.n.iloc[0])} items: {levels}; guessing gives "
         f"{average.chance.iloc[0]:.1f}. " + (
             f"Ahead of the teacher, by the whole interval: {said or 'none'}."
             if average.value[teacher] > average.chance[teacher] + tables.SIGMA * average.stderr[teacher] else
             "The teacher is not above guessing, so these questions say nothing of its student."))

# %% [markdown]
# ## What could not be reproduced
#
# CUTE's own table: its prompts are the authors', and its models have billions of parameters. One teacher, one student:
# intervals are over items.
