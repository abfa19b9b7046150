# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # dbyte on one GPU
#
# Installs dbyte and runs some of its notebooks on the GPU of this machine. On Colab: open this file (File, Upload
# notebook), choose a GPU (Runtime, Change runtime type), give the address of a copy of dbyte below, and run all cells.
# On a machine of your own, in a checkout: run all cells.
#
# `smoke` only proves that everything runs. `small` gives numbers like the README's; docs/notebooks.md says what its
# notebooks cost on two CPU cores. In a checkout it replaces `results/small`: use a clone of its own. Models, results
# and figures stay in the folder, on Colab until the machine is given back.

# %% tags=["parameters"]
source = ""  # what `git clone` takes, such as https://github.com/NAME/dbyte; empty: this notebook lies in a checkout
scale = "smoke"
notebooks = "00,01,02"
device = "cuda"

# %%
import subprocess
import sys
from pathlib import Path

from IPython.display import Image, Markdown, display

# %%
if source and not Path("dbyte/pyproject.toml").is_file():
    subprocess.run(["git", "clone", source, "dbyte"], check=True)
here = [Path("dbyte"), Path("."), Path("..")]
found = [folder.resolve() for folder in here if (folder / "constraints.txt").is_file()]
assert found, "no checkout of dbyte here: give its address as `source`"
root = found[0]
python = root / ".venv" / "bin" / "python"
print(root)

# %% [markdown]
# Everything is pinned, PyTorch too, and goes into an environment of its own: nothing that this machine has is changed,
# and this kernel need not be restarted. It needs Python 3.11 or 3.12 and some gigabytes, most of them PyTorch's.

# %% tags=["install"]
subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / ".venv")], check=True)
subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "-c", "constraints.txt",
                "-e", ".[notebooks]"], cwd=root, check=True)

# %%
command = [str(python), "-m", "dbyte", "reproduce", "--scale", scale, "--device", device, "--only", notebooks]
with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
    for line in process.stdout:
        print(line, end="")
assert process.returncode == 0, "the lines above say why"

# %%
display(Markdown((root / "results" / scale / "REPORT.md").read_text(encoding="utf-8")))
for picture in sorted((root / "figures" / scale).glob("*.png")):
    display(Image(str(picture)))
