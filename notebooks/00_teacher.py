# ---
# jupyter:
#   dbyte:
#     needs: []
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · The teacher
#
# Everything begins with a language model trained on tokens, and its tokenizer. At the scales `smoke` and `small` both
# are trained here, on the built-in world and on the documentation strings of the installed packages, in the Hugging
# Face format; at `gpu` on that world and the text in the folder `text/`. At `hub` and `paper` a published model takes
# their place, and nothing else in the notebooks changes.
#
# **Shows:** what the corpora are, that tokens and bytes align exactly, what the teacher has learned.
# **Cost:** two CPU cores; minutes, memory, what each notebook reads and writes:
# [docs/notebooks.md](../docs/notebooks.md).

# %% tags=["parameters"]
scale = "smoke"
seed = 0

# %%
import pandas as pd
from IPython.display import Image

from dbyte import presets
from dbyte.distill.data import heldout_corpus, training_corpora
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.measure import Measurer, bits_row, column_rows
from dbyte.model.teacher import load_teacher
from dbyte.paths import FIGURES
from dbyte.text.spans import TokenBytes
from dbyte_paper import diagrams, figures, results, tables

# %%
chosen = presets.scale(scale)
record = results.begin(chosen.name, seeds=[seed], device=chosen.device)

# %% [markdown]
# ## The corpora
#
# Documents are deduplicated and split by a hash of their text, so training and held-out documents never overlap. The
# content hash says whether two installations read the same text.

# %%
names = [name for name, _ in chosen.corpora]
corpora = training_corpora(chosen, seed=seed)
corpora += [heldout_corpus(chosen, name, seed=seed) for name in names]
with record("corpus", keys=["corpus", "split"], of=corpora[0].content_hash) as rows:
    for corpus in corpora:
        rows.append({"corpus": corpus.name, "split": corpus.split, "value": corpus.text_bytes, "stderr": float("nan"),
                     "n": len(corpus.documents), "content_hash": corpus.content_hash[:16]})
shown = record.read("corpus").drop(columns="stderr")
tables.Table(shown.rename(columns={"value": "bytes", "n": "documents"}))

# %%
for corpus in corpora[: len(names)]:
    print(f"--- {corpus.name}\n{corpus.documents[0][:600]}\n")

# %% [markdown]
# ## The teacher
#
# It is trained now, or loaded if it was trained before: the address of a run is a hash of everything that determines
# it. A run that was interrupted resumes where it stopped.

# %%
folder = teacher_run(chosen, seed=seed)
model, tokenizer = load_teacher(folder)
print(f"{type(model).__name__}: {sum(w.numel() for w in model.parameters()):,} parameters, {len(tokenizer):,} tokens")

# %% [markdown]
# ## Tokens and bytes
#
# A token stands for a fixed byte string, and a boundary marks a token's last byte. Every later step trains on this
# alignment. It is exact also where one character is split over several tokens. Character offsets, which the authors'
# code uses, put several tokens of one character on one byte and lose count.

# %%
token_bytes = TokenBytes.from_tokenizer(tokenizer)
examples = {"words and digits": "Where does Anna live? 3 + 4 = 7.", "accents": "naïve café", "emoji and CJK": "😀 字節"}
pictures = []
for title, text in examples.items():
    pictures.append((title, [token_bytes.token_bytes[token_id] for token_id in token_bytes.align(text).token_ids]))
Image(figures.write_png(diagrams.alignment_figure(pictures), FIGURES / chosen.name / "alignment.png"))

# %%
texts = [text for corpus in corpora for text in corpus.documents]
aligned = token_bytes.align_batch(texts)
for text, one in zip(texts, aligned, strict=True):
    assert bytes(one.byte_ids.tolist()) == text.encode(), "the joined bytes of the tokens are the text"
    assert one.boundary.sum() == len(one.token_ids), "one boundary a token"
size = sum(len(one.byte_ids) for one in aligned)
tokens = sum(len(one.token_ids) for one in aligned)
print(f"{len(texts):,} of {len(texts):,} documents: joined bytes equal the text, one boundary a token; "
      f"{size / tokens:.2f} bytes a token")

# %% [markdown]
# ## What the teacher knows
#
# MiniBench has the columns of the paper's benchmarks. Its items are generated from the world and held out from
# training; accuracy is in percent with its standard error. Bits per byte are nats / (ln 2 x UTF-8 bytes) on held-out
# documents.

# %%
measurer = Measurer(chosen, seed)
with record("teacher", keys=["model", "task"], of=folder.parent.name) as rows:
    rows += column_rows("teacher", measurer.columns(folder, "token"))
accuracy = record.read("teacher")
tables.Table(accuracy)

# %%
with record("teacher_bits", keys=["model", "corpus"], of=folder.parent.name) as rows:
    for name in names:
        rows.append(bits_row("teacher", name, measurer.bits(folder, "token", name)))
tables.Table(record.read("teacher_bits").drop(columns="folded"))

# %% [markdown]
# ## Is it good enough to be a teacher?
#
# Retention means something only where the teacher is far above chance. The bounds are what this project asks of the
# teacher at `small`; at `smoke` it has hardly trained and is expected to miss them.

# %%
bounds = {"ARC-E": 95, "LMB": 80, "GSM8K": 90}
targets = []
for task, bound in bounds.items():
    row = accuracy.set_index("task").loc[task]
    targets.append(tables.target(f"teacher, {task}, accuracy %", row.value, int(row.n), row.stderr, at_least=bound))
tables.Table(pd.DataFrame(targets))

# %% [markdown]
# ## What is not shown here
#
# The paper's teachers (Llama 3.2 3B, Qwen3 4B, OLMo 2 1B) need a GPU and a download; `scale="hub"` and `scale="paper"`
# name them. MiniBench measures whether capabilities survive distillation, not how a model compares with published ones.
