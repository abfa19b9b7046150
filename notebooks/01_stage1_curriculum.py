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
# # 01 · Stage 1: from tokens in to bytes in
#
# The paper's section 4.2.1, its Figure 2 and the Stage-1 rows of its Table 1. Stage 1 has three steps: the encoder
# learns the teacher's embeddings (1.1), encoder and core learn the teacher's predictions (1.2), the router learns where
# tokens end (1.3). The student then reads bytes, sets the boundaries itself, and writes tokens.
#
# **Claims:** alignment alone recovers surface-level tasks within few bytes; distillation brings the harder ones;
# Stage 1 keeps nearly all of the teacher. **Cost:** two CPU cores; minutes, memory, what it reads and writes:
# [docs/notebooks.md](../docs/notebooks.md).

# %% tags=["parameters"]
scale = "smoke"
seed = 0

# %%
import pandas as pd
from IPython.display import Image

from dbyte import losses, presets
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.measure import Measurer, bits_row, boundary_row, column_rows
from dbyte.evaluate.stats import retention
from dbyte.model.chunking import find_chunks
from dbyte.model.core import run_core
from dbyte.paths import FIGURES
from dbyte_paper import ablations, diagrams, figures, miniature, results, tables
from dbyte_paper.ablation_runs import curriculum_rows

# %%
chosen = presets.scale(scale)
record = results.begin(chosen.name, seeds=[seed], device=chosen.device)

# %% [markdown]
# ## Reading: two sentences become bytes, chunks and tokens
#
# Before anything is measured, the method itself (the paper's section 4.1 and its Figure 1), tensor by tensor. The
# teacher of this section knows two sentences by heart and nothing else; its student is untrained. Both are made here,
# in a second, and are the same at every scale. A tensor's name ends in its axes: B rows, L bytes, M chunks, D the
# encoder's width, E the teacher's width, V the tokens of its vocabulary.

# %%
mini = miniature.Miniature()
teacher = mini.teacher
student = mini.student
batch = mini.batch
miniature.shape("byte_ids_BL", batch.byte_ids_BL, "both sentences in one row, each from BOS to EOS; then padding")
miniature.shape("document_BL", batch.document_BL, "0 and 1 for the bytes of the sentences, -1 for padding")
miniature.shape("boundary_BL", batch.boundary_BL, "True at the last byte of each of the teacher's tokens")
miniature.shape("token_ids_BM", batch.token_ids_BM, "those tokens: the k-th ends at the k-th boundary")

# %% [markdown]
# The first sentence, one column per byte. ⊢ and ⊣ are BOS and EOS, each a token of its own; `é` is two bytes, `c3 a9`.

# %%
first = slice(0, 20)
miniature.strip({"byte": miniature.glyphs(batch.byte_ids_BL[0, first]),
                 "a token ends here": miniature.bars(batch.boundary_BL[0, first])})

# %% [markdown]
# **Encode.** A stack of Mamba2 reads the bytes from left to right. Nothing crosses from one document into the next: in
# a packed row each is encoded as it would be alone.

# %%
encoded_BLD = student.encode(batch.byte_ids_BL, batch.document_BL)
miniature.shape("encoded_BLD", encoded_BLD, "each byte, in the light of all bytes before it")

# %% [markdown]
# **Route** (section 4.1.1, Eq. 1). Does a chunk end at byte $i$? It does where the state of the next byte points
# elsewhere, $p_i = \tfrac{1}{2}\left(1 - \cos(q(x_i), k(x_{i+1}))\right) \ge \tfrac{1}{2}$. (Eq. 1 as printed is
# $1 - \tfrac{1}{2}\cos$, which can exceed 1; this is H-Net's form.) The router looks one byte ahead: where it sees the
# space, it can tell that a word has ended. Untrained, it still sets boundaries anywhere:

# %%
boundary_prob_BL = student.route(encoded_BLD, batch.byte_ids_BL, batch.document_BL)
miniature.shape("boundary_prob_BL", boundary_prob_BL, "how probable it is that a chunk ends at the byte")
mini.picture()

# %% [markdown]
# **Chunk.** The state at each boundary stands for its chunk and is projected to the teacher's width. While Stage 1
# trains, the boundaries are the teacher's: a chunk is a token, and the k-th chunk can be compared with the k-th token.

# %%
chunks = find_chunks(batch.boundary_BL, batch.document_BL, batch.mask_BL)
chunk_BME = student.chunk_embeddings(encoded_BLD, chunks)
miniature.shape("chunk_BME", chunk_BME, "what the core will read in the place of token embeddings")

# %% [markdown]
# **Core and head.** The teacher's own transformer, with the teacher's weights, reads chunks instead of embeddings, and
# its own head predicts the next token.

# %%
core_BME = student.run_core(chunk_BME, chunks)
logits_BMV = student.token_head(core_BME)
miniature.shape("core_BME", core_BME, "each chunk, in the light of all chunks before it")
miniature.shape("logits_BMV", logits_BMV, "the token after each chunk")

# %% [markdown]
# ### Three losses
#
# **Align** (Eq. 2): $\mathcal{L}_\text{align} = \lVert e_k - \hat e_k \rVert_2^2$. The chunk of token $k$ should be the
# embedding that the teacher has for it. Neither core nor head runs.

# %%
miniature.source(losses.align)

# %%
embedding_BME = teacher.get_input_embeddings()(batch.token_ids_BM)
miniature.shape("embedding_BME", embedding_BME, "what the teacher has for each token")
total, count = losses.align(chunk_BME, embedding_BME, batch.token_mask_BM)
print(f"{total / count:.2f} a token, over {count} tokens")

# %% [markdown]
# **Distil** (Eq. 3): $\mathcal{L}_\text{distill} = \sum_k D_\text{KL}(P_T(\cdot \mid t_{<k}) \,\Vert\, P_S(\cdot \mid
# x_{<\text{pos}(k)}))$. At every token's end the student's distribution over the next token should be the teacher's.

# %%
miniature.source(losses.distill)

# %%
teacher_BME = run_core(teacher.model, embedding_BME, batch.token_document_BM)
teacher_BMV = teacher.lm_head(teacher_BME)
miniature.shape("teacher_BMV", teacher_BMV, "what the teacher says of the token after each token")
total, count = losses.distill(logits_BMV, teacher_BMV, losses.has_next(batch.token_document_BM))
print(f"{total / count:.2f} nats a token, over the {count} tokens that another one follows")

# %% [markdown]
# **Boundary** (Eq. 4): $\mathcal{L}_\text{boundary} = -\frac{1}{L}\sum_i \left[y_i \log p_i + (1 - y_i)
# \log(1 - p_i)\right]$, where $y_i$ is 1 if one of the teacher's tokens ends at byte $i$. BOS, EOS and the byte before
# EOS are boundaries by contract, and no loss is taken there.

# %%
miniature.source(losses.boundary)

# %%
routed_BL = losses.routed(batch.byte_ids_BL, batch.document_BL)
miniature.shape("routed_BL", routed_BL, "True at the bytes whose boundaries the router decides")
total, count = losses.boundary(boundary_prob_BL, batch.boundary_BL, routed_BL)
print(f"{total / count:.2f} nats a byte, over the {count} bytes that the router decides")

# %% [markdown]
# ### Three steps
#
# The three are not added up. The encoder learns from the first, encoder and core from the second, the router alone from
# the third, one step after the other (section 4.2.1). Here they read these two sentences and nothing else. Compare the
# divergence at which step 1.2 begins with the one above: alignment alone has done most of the work.

# %%
mini.train(*miniature.STAGE1)
mini.picture()

# %% [markdown]
# The router has learned the teacher's tokens, and it decides by itself from here on. The student reads bytes and writes
# tokens, those that the teacher would write:

# %%
out = student(batch.byte_ids_BL, document_BL=batch.document_BL, mask_BL=batch.mask_BL)
texts = student.token_texts()
for k in range(1, 7):
    token = texts[batch.token_ids_BM[0, k]].decode()
    of_teacher = texts[teacher_BMV[0, k].argmax()].decode() or "EOS"
    of_student = texts[out.token_logits[0, k].argmax()].decode() or "EOS"
    print(f"after {token!r:8s} the teacher writes {of_teacher!r:8s} and the student {of_student!r}")

# %% [markdown]
# ## The three steps
#
# The whole curriculum as this scale runs it:

# %%
picture = diagrams.pipeline_figure(curriculum(chosen))
Image(figures.write_png(picture, FIGURES / chosen.name / "pipeline.png"))

# %% [markdown]
# Each line says what a step trained on. Runs that are complete are loaded.

# %%
teacher_folder = teacher_run(chosen, seed=seed)
runs = run_steps(chosen, curriculum(chosen)[:3], seed=seed)
for run in runs:
    print({name: run.facts()[name] for name in ("step", "updates", "train_bytes", "seconds")})

# %% [markdown]
# ## Training dynamics (Figure 2)
#
# Accuracy against bytes through steps 1.1 and 1.2, along the teacher's boundaries, on fewer items than the final table.
# A step continues from the last model of the one before.

# %%
measurer = Measurer(chosen, seed)
with record("dynamics", keys=["model", "task", "train_bytes"], of=runs[1]) as rows:
    rows += curriculum_rows(measurer, runs, teacher_folder)
dynamics = record.read("dynamics")
of_teacher = dynamics[dynamics.model == "teacher"]
steps = dynamics[dynamics.model == "student"].assign(model="step " + dynamics.step)
picture = ablations.curves_figure(steps, ["step 1.1", "step 1.2"], teacher=of_teacher)
Image(figures.save(picture, "dynamics", frames=[dynamics]))

# %% [markdown]
# The paper says that alignment alone recovers surface-level tasks. Retention after step 1.1 and after step 1.2, as the
# share of the teacher's accuracy on the same items, shows how much each step contributes:

# %%
of_student = dynamics[dynamics.model == "student"].sort_values("train_bytes")
last = of_student.groupby(["step", "task"], sort=False).tail(1)
level = dynamics[dynamics.model == "teacher"].set_index("task").value
share = 100 * last.value / last.task.map(level).where(lambda value: value > 0)
tables.Table(tables.wide(last.assign(share=share), rows="step", values="share").reset_index(), digits=1)

# %% [markdown]
# ## Where the router sets boundaries
#
# Boundary precision, recall and F1 against the teacher's tokens on held-out documents. Bytes whose boundary is fixed by
# the format (BOS, EOS and the byte before EOS) do not count.

# %%
final = runs[2].model_folder
names = [name for name, _ in chosen.corpora]
with record("boundaries_stage1", keys=["corpus"], of=runs[2]) as rows:
    for name in names:
        rows.append(boundary_row(name, measurer.boundaries(final, name)))
boundaries = record.read("boundaries_stage1")
tables.Table(boundaries)

# %% [markdown]
# ## What Stage 1 keeps
#
# The same items through the same harness for teacher and student, the student along the router's own boundaries and,
# for comparison, along the tokenizer's. Retention is the student's mean over the teacher's; its interval is a bootstrap
# over items, paired.

# %%
models = {"teacher": (teacher_folder, "token"), "stage1": (final, "stage1/router"),
          "stage1, tokenizer's boundaries": (final, "stage1/tokenizer")}
found = {}
with record("stage1", keys=["model", "task"], of=runs[2]) as rows:
    for model, how in models.items():
        found[model] = measurer.columns(*how)
        rows += column_rows(model, found[model])
tables.Table(tables.main_table(record.read("stage1")))

# %% [markdown]
# ## Real prose
#
# Bits per byte on held-out documents. Along the tokenizer's boundaries teacher and student score the same tokens. Along
# the router's, a chunk that is no token is split as byte-pair encoding splits it, and a boundary inside a token leaves
# two shorter tokens that are scored as such. That is the exact probability of one segmentation, and a lower bound of
# the text's probability.

# %%
with record("bits_stage1", keys=["model", "corpus"], of=runs[2]) as rows:
    for folder, reading in models.values():
        for name in names:
            model = "teacher" if reading == "token" else reading
            rows.append(bits_row(model, name, measurer.bits(folder, reading, name)))
bits = record.read("bits_stage1")
tables.Table(bits.drop(columns="folded"), digits=4)

# %% [markdown]
# ## Checks
#
# The bounds are what this project asks of Stage 1 at `small`; at `smoke` nothing has trained long enough to reach them.

# %%
correct = {model: {task: column.correct for task, column in columns.items()} for model, columns in found.items()}
n = sum(column.n for column in found["teacher"].values())
targets = []
for model in list(models)[1:]:
    kept = retention(correct[model], correct["teacher"])
    error = (kept.high - kept.low) / 4  # a 95 % interval is four standard errors wide
    targets.append(tables.target(f"retention %, {model}", kept.value, n, error, at_least=97))
for row in boundaries.itertuples():
    targets.append(tables.target(f"boundary F1 %, {row.corpus}", row.value, row.n, row.stderr, at_least=97))
by_model = bits.pivot(index="corpus", columns="model", values=["value", "n"])
for name, row in by_model.iterrows():
    more = 100 * (row["value", "stage1/tokenizer"] / row["value", "teacher"] - 1)
    what = f"bits per byte over the teacher's, % more, {name}, tokenizer's boundaries"
    targets.append(tables.target(what, more, int(row["n", "teacher"]), at_most=3))
tables.Table(pd.DataFrame(targets))

# %% [markdown]
# ## What could not be reproduced
#
# Table 1's absolute numbers belong to billion-parameter teachers. Which of the paper's tasks are "surface-level" and
# which need reasoning has no exact counterpart in MiniBench; the figure shows each column, and the reader can judge.
