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
# # 13 · Other text: domains, scripts, encoders at equal loss, and where a byte student breaks
#
# The paper distils on web text and reads on English. It leaves open whether what Stage 1 learns is bound to its text:
# whether a student that was aligned on one domain can go on in another. It also sees a Transformer encoder collapse,
# after one budget and at one depth.
#
# **Questions:** is alignment domain-bound? Does a little of other scripts in the text of Stage 1 help with them? How
# many bytes does each encoder need for equal loss? On which kinds of text is a student furthest from its teacher?
# **Cost:** at `small` an estimate of 1.7 core-hours a seed (docs/log.md, [docs/notebooks.md](../docs/notebooks.md)). At
# scales with a teacher from elsewhere, such as `real`, the last section alone is measured, by the student of notebook
# 17; if that is not trained, it is now.

# %% tags=["parameters"]
scale = "smoke"
seed = 0
ablation_seeds = 1  # students of each row; the cost above is that of one

# %%
from dataclasses import replace

import pandas as pd
from IPython.display import Image, Markdown

from dbyte import presets
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.teacher import teacher_run
from dbyte_paper import ablation_runs, ablations, domains, equal_loss, figures, other_texts, results, tables
from dbyte_paper.variants import encoder_scaling

# %%
chosen = presets.changed(presets.scale(scale), ablation_seeds=ablation_seeds)
seeds = [seed + k for k in range(chosen.ablation.seeds)]
record = results.begin(chosen.name, seeds=seeds, device=chosen.device)
teacher = teacher_run(chosen, seed=seed)
here = domains.trains_here(chosen)
absent = Markdown("Not measured here: the teacher of this scale comes from elsewhere.")

# %% [markdown]
# ## Two domains, two stages
#
# Prose is the scale's own text; code is the source of the standard library, without its documentation strings, which
# are prose. The teacher is the scale's, taught both for a while, with its tokenizer. Stage 1 is on one domain, Stage 2
# on one: four students of equal bytes, two of each Stage 1.

# %%
if here:
    corpora = domains.domains(chosen)
    known = domains.taught(chosen, tuple(one for each in corpora.values() for one in each), seed=seed)
    steps = domains.short_steps(chosen)
    cells = [domains.crossed(known, corpora, steps, seed=each, teacher_seed=seed) for each in seeds]
    print(", ".join(f"{step.name}: {step.train_bytes / 1e6:g} MB" for step in steps))

# %% [markdown]
# Bits per byte of held-out text (Stage 2's are a bound), F1 of the router's boundaries and the mean length of its
# chunks, of the teacher's tokens in its row. Accuracy is that of MiniBench's columns that are not generated, over the
# teacher's; they ask about prose. Stage 1 alone is read along the tokenizer's boundaries.

# %%
if here:
    models = domains.students(cells)
    texts = domains.domain_texts(chosen, corpora, seed=seed)
    read = domains.read_all(known, models, texts)
    last = cells[0][domains.CODE, domains.CODE][-1]
    with record("domains", keys=["model", "corpus", "measure"], of=last) as rows:
        rows += domains.read_rows(known, read, texts)
        rows += domains.kept_rows(known, corpora[domains.PROSE], models, seed=seed)
    with record("domains_transfer", keys=["corpus", "instead", "after", "measure"], of=last) as rows:
        rows += domains.transfer_rows(read)

# %%
if here:
    found = record.read("domains")
    order = sorted(set(found.model), key=lambda name: (name != domains.TEACHER, domains.STAGE1 not in name, name))
    shown = tables.estimates(found, rows=["measure", "corpus"], columns="model", order=order, digits=2)
tables.Table(shown) if here else absent

# %% [markdown]
# What it costs to have had the other domain in Stage 1, on each domain: against the student that had this one in both
# stages, on the same pieces of text. In percent of bits per byte and in points of F1; above zero is a cost.

# %%
if here:
    moved = record.read("domains_transfer")
    words = {"corpus": "read on", "instead": "Stage 1 on", "after": "after", "measure": "measure", "points": "cost",
             "interval": "95 % interval", "verdict": "verdict"}
tables.Table(tables.in_points(moved, words)) if here else absent

# %% [markdown]
# ## Scripts
#
# Stage 1 on the scale's text, and on the same text with a tenth of other scripts in it, at equal bytes, for a teacher
# that has read the mixed text. If `$DBYTE_SCRIPTS` names a folder with a text file for each script, two thirds of each
# go into the training text, and both students are read on the rest. A tokenizer that was trained on English cuts other
# scripts into bytes: at the small scales their tokens have about one byte.

# %%
folder = bool(other_texts.scripts())
if here and folder:
    mixed, by_text = domains.script_students(chosen, seed=seed, seeds=seeds)
    pages = domains.script_texts(chosen)
    scripts_read = domains.read_all(mixed, by_text, pages)
    last_of_scripts = by_text[domains.MIXED, domains.STAGE1][1][0].parent.name
    beyond = other_texts.others(other_texts.scripts())
    with record("scripts", keys=["model", "corpus", "measure"], of=last_of_scripts) as rows:
        rows += domains.read_rows(mixed, scripts_read, pages)
    with record("scripts_transfer", keys=["corpus", "instead", "after", "measure"], of=last_of_scripts) as rows:
        rows += domains.script_transfer_rows(scripts_read, beyond)

# %%
if here and folder:
    scripts = record.read("scripts")
    shown = tables.estimates(scripts, rows=["measure", "corpus"], columns="model", order=sorted(set(scripts.model)),
                             digits=2)
    moved = pd.concat([moved, record.read("scripts_transfer")])
missing = Markdown("Not measured here: `$DBYTE_SCRIPTS` names no folder, or the teacher comes from elsewhere.")
tables.Table(shown) if here and folder else missing

# %% [markdown]
# ## Is alignment domain-bound?

# %%
Markdown(domains.is_alignment_bound(moved)) if here else absent

# %% [markdown]
# ## Encoders at equal loss
#
# Step 1.1 alone (Eq. 2), by Mamba2 and by a Transformer of as many parameters, with 1, 2 and 4 layers, each at three
# budgets with a schedule of its own; no snapshot of a longer run stands for a shorter one.

# %%
if here:
    variants = encoder_scaling(chosen)
    trained = ablation_runs.train(replace(chosen, teacher=str(teacher)), variants, seed=seed,
                                  batch_rows=chosen.batch_rows)
    sizes = {name.rpartition(", ")[0]: size for name, size in ablation_runs.sizes(trained).items()}
    print(sizes)
    aligned = trained[variants[0].name][0][-1]
    with record("encoder_scaling", keys=["model", "train_bytes"], of=aligned) as rows:
        rows += equal_loss.budget_rows(trained)
    budgets = record.read("encoder_scaling")

# %%
if here:
    picture = ablations.loss_figure(budgets, list(sizes), label="alignment loss (Eq. 2) at the end of a run")
    path = figures.save(picture, "encoder_scaling", frames=[budgets])
Image(path) if here else absent

# %% [markdown]
# The bytes that each encoder needs for the least loss that all of them reach, read off these curves by straight lines
# between logarithms. "At most" says that the first budget is enough.

# %%
if here:
    with record("encoder_equal_loss", keys=["model"], of=aligned) as rows:
        rows += equal_loss.equal_loss_rows(budgets)
    equal = record.read("encoder_equal_loss").sort_values("value")
    shown = pd.DataFrame({"encoder": equal.model, "loss": equal.loss, "": equal.side, "MB": equal.value / 1e6,
                          "times the fewest": equal.value / equal.value.min()})
tables.Table(shown, digits=2) if here else absent

# %% [markdown]
# ## Where a byte student breaks
#
# The student of this scale's whole curriculum on text of other kinds: held-out prose, code (of the folder
# `$DBYTE_CODE`, else of the standard library), tables and mail written for this page (`dbyte_paper/own_texts.toml`),
# and other languages if `$DBYTE_SCRIPTS` is set. All in pieces of at most 256 bytes, each read from its beginning.

# %%
runs = run_steps(chosen, curriculum(chosen), seed=seed)
readers = {domains.TEACHER: (teacher, "token"), "Stage 1, tokenizer's": (runs[2].model_folder, "stage1/tokenizer"),
           "Stage 1, router's": (runs[2].model_folder, "stage1/router"),
           "Stage 2": (runs[4].model_folder, "stage2/router")}
by_kind, pieces = domains.broken_rows(readers, other_texts.kinds(chosen, seed=seed), device=chosen.device)

# %%
with record("kinds_of_text", keys=["kind", "model"], of=runs[4]) as rows:
    rows += by_kind
with record("worst_pieces", keys=["kind", "model", "place"], of=runs[4]) as rows:
    rows += pieces
kinds = record.read("kinds_of_text")
tables.Table(tables.estimates(kinds, rows=["kind"], columns="model", order=list(readers), digits=3))

# %% [markdown]
# Percent of bits beyond the teacher's, paired over pieces:

# %%
over = kinds[kinds.model != domains.TEACHER].assign(value=kinds.more, stderr=kinds.more_stderr)
tables.Table(tables.estimates(over, rows=["kind"], columns="model", order=list(readers)))

# %%
Markdown(domains.where_it_breaks(kinds))

# %% [markdown]
# The pieces at which Stage 2 needs most bits per byte beyond its teacher, three of each kind:

# %%
worst = record.read("worst_pieces")
worst = worst[worst.model == "Stage 2"].rename(columns={"value": "more", "n": "bytes"})
tables.Table(worst[["kind", "more", "teacher", "student", "bytes", "text"]], digits=2)

# %% [markdown]
# ## What could not be reproduced
#
# MiniBench asks nothing about code, so accuracy off the diagonal is that of prose alone. The teacher has learnt code
# later and less than prose, with a tokenizer of the made-up world, so that its tokens of code are short. The rates of
# all encoders are those that were chosen with Mamba2, which may favour it. One teacher serves all seeds of a section.
