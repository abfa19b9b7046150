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
# # 21 · The same teacher: where Stage 2 loses its bits
#
# Stage 2 of notebook 17 read once more, next to one as in the paper: what a decoder is worth that begins from what the
# token head says, in place of one that begins from nothing, and at which bytes of a token each loses its bits.
#
# **Claims:** none of the papers'. The first student goes beyond both.
# **Cost:** at `real` less than an hour of two CPU cores, most of it the training of one more Stage 2, which resumes
# where it stopped; at `smoke` a minute after notebook 17. What it took is in
# [docs/notebooks.md](../docs/notebooks.md).

# %% tags=["parameters"]
scale = "smoke"
seed = 0

# %%
from IPython.display import Image

from dbyte import presets
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.data import heldout_corpus
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.measure import Measurer
from dbyte_paper import ablations, figures, real_misses, real_teacher, results, tables, variants
from dbyte_paper.ablation_runs import curve_rows

# %%
chosen = presets.scale(scale)
record = results.begin(chosen.name, seeds=[seed], device=chosen.device)
measurer = Measurer(chosen, seed)
teacher = teacher_run(chosen, seed=seed)
runs = run_steps(chosen, curriculum(chosen), seed=seed)

# %% [markdown]
# ## Two students
#
# Two students of the same Stage 1 and the same bytes. The decoder of the first corrects what the token head says of
# the next byte and of whether its chunk ends there (`dbyte/model/token_prior.py`); at `real` it is the one of notebook
# 17. The other begins from nothing, as in the paper, at rates of its own. Rates were chosen by the loss of training
# text, which is read once.

# %%
trained = {variant.name: variants.run_variant(chosen, variant, seed=seed) for variant in variants.beginnings(chosen)}
stage2 = {name: found[-1] for name, found in trained.items()}

# %% [markdown]
# ## Step 2.1
#
# The step before the whole student trains, at which a new decoder reads a core that does not change: its loss against
# bytes, in nats a byte with its flag, each row of text read once.

# %%
with record("real_head", keys=["model", "train_bytes"], of=runs[3]) as rows:
    rows += curve_rows({name: [found] for name, found in trained.items()}, step=3)
head = record.read("real_head")
picture = ablations.loss_figure(head, list(dict.fromkeys(head.model)), label="loss, nats a byte")
Image(figures.save(picture, "real_head", frames=[head]))

# %% [markdown]
# ## At which bytes
#
# Bits per byte, by how many bytes of its chunk are before a byte, flags included: places add up. The teacher's are
# exact, along its own tokens.

# %%
with record("real_places", keys=["corpus", "place", "model"], of=runs[4]) as rows:
    for corpus, _ in chosen.corpora:
        documents = heldout_corpus(chosen, corpus, seed=seed).documents
        said = {"teacher": real_misses.teacher_place_rows(teacher, documents, row_bytes=chosen.row_bytes)}
        for name, run in stage2.items():
            said[name] = real_misses.student_place_rows(run.model_folder, documents, row_bytes=chosen.row_bytes)
        rows += ({"corpus": corpus, "model": name} | row for name, found in said.items() for row in found)
places = record.read("real_places")
tables.Table(tables.estimates(places, rows=["corpus", "place"], columns="model", order=["teacher", *stage2], digits=3))

# %% [markdown]
# Where the bits are lost: what a student has above its teacher, as a share of all that it has above it.

# %%
of_place = places.pivot(index=["corpus", "place"], columns="model", values="value")
for name in stage2:
    for corpus, above in (of_place[name] - of_place["teacher"]).groupby("corpus"):
        shares = ", ".join(f"{place} {value:.0%}" for (_, place), value in (above / above.sum()).items())
        print(f"{name}, {corpus}: {above.sum():.2f} bits a byte above the teacher; {shares}")

# %% [markdown]
# Bits per byte of both, and how many more than the teacher's. Beside them the student of Stage 1 as it is: its token
# head, read along the router's boundaries, is a model of bytes already, and nothing has to be learnt for it.

# %%
read = {"teacher": (teacher, "token"), "Stage 1's token head": (runs[2].model_folder, "stage1/router")}
read |= {name: (run.model_folder, "stage2/router") for name, run in stage2.items()}
with record("real_targets_bits", keys=["corpus", "measure", "model"], of=runs[4]) as rows:
    rows += real_teacher.text_rows(measurer, read)
bits = record.read("real_targets_bits")
more = [tables.with_error(row.more, row.more_stderr, digits=1) for row in bits.itertuples()]
tables.Table(bits.assign(more=more)[["corpus", "model", "value", "stderr", "n", "more"]].rename(
    columns={"value": "bits per byte", "n": "pieces", "more": "% over the teacher's"}), digits=3)

# %% [markdown]
# ## What each keeps
#
# The columns of notebook 17, on the same items.

# %%
models = {"teacher": (teacher, "token")} | {name: (run.model_folder, "stage2/router") for name, run in stage2.items()}
with record("real_targets_columns", keys=["model", "task"], of=runs[4]) as rows:
    rows += real_teacher.kept_rows(real_teacher.answered(measurer, models))
tables.Table(real_teacher.kept_table(record.read("real_targets_columns"), models=list(models)))

# %% [markdown]
# ## What could not be reproduced
#
# The paper's Stage 2 reads billions of bytes, and its decoder then needs no token head. Here a decoder from nothing
# sees so few that its loss still falls when they end. One run of each student says nothing on the spread between runs.
