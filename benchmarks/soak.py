"""What breaks if one breaks it: kills, odd texts, flipped bytes, programs on one run, full disks, hostile folders.

    python benchmarks/soak.py --minutes 240 --write     # the long run: 200 kills, 10,000 texts, 2,000 bytes, a table
    python benchmarks/soak.py --minutes 2               # whether the parts work
    python benchmarks/soak.py --minutes 2 --parts bytes,hostile

Parts share the minutes; each stops at its aim or when its share is over, and the table says how far it came. What fails
is printed and makes the exit status 1. Everything happens in a temporary folder, at a toy size, on the CPU. Programs
run in forked children of this process, so that a random moment is one of work and rarely one of imports.

kills      SIGKILL at a random moment of training (with packing and the teacher), of a transfer that reads the
           teacher's bytes first, of evaluation or a notebook, then the same command again, until it ends by itself.
           Nothing may be lost: models, metrics (but their seconds), scores and results are those of programs that
           nobody killed, bit for bit.
texts      Random texts of 31 scripts, with marks, controls and emoji between them, aligned, scored and continued. Bytes
           must come back, scores be finite and at most 0; wrong input between them must be a ValueError.
bytes      One byte of a checkpoint or a model is changed: `verify` must name that file.
together   Two and three programs on one run at once: all end well, with the bits of one alone.
disk       Training on disks that are too small: exit status 2, a message that says so, no traceback; with room the same
           command ends with the bits of the undisturbed run. It mounts: as root, or by `unshare -rm python ...`.
readonly   A notebook where runs/, results/ or figures/ cannot be written: exit status 2 and a message with the folder,
           then, where it can be, the undisturbed results. It mounts, too.
clocks     Training whose clocks jump at every look, the wall clock to and fro over decades, the monotonic one ahead by
           up to an hour; killed in the middle, after which each file is said to be of another year; and then again.
hostile    Folders with pickles, code, links out, zip bombs, huge shapes, nested JSON and looping templates: nothing in
           them is run, address space and time are bounded, and the error says what was refused.
"""

import argparse
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

# Children import dbyte for themselves, each with its own $DBYTE_ROOT; what takes long to import they find here.
import lm_eval.evaluator
import pandas  # noqa: F401
import torch
import transformers

HERE = Path(__file__).resolve().parent
AIMS = {"kills": 200, "texts": 10_000, "bytes": 2_000, "together": 5, "disk": 10, "readonly": 3, "clocks": 10,
        "hostile": 10}
SHARES = {"kills": 0.5, "texts": 0.15, "bytes": 0.05, "together": 0.05, "disk": 0.05, "readonly": 0.05, "clocks": 0.1,
          "hostile": 0.05}
TOY = """base = "smoke"
corpora = [["world", 60_000]]
heldout_bytes = 8_000
batch_rows = 2
items = 4
dynamics_items = 4
[teacher]
vocabulary = 320
width = 32
layers = 1
heads = 2
ffn_width = 32
train_bytes = 40_000
rate = 5e-3
[student]
byte_width = 32
encoder_layers = 1
ffn_width = 32
[stage1]
align_bytes = 16_000
distill_bytes = 16_000
boundary_bytes = 16_000
[stage2]
head_bytes = 16_000
full_bytes = 16_000
"""
KILLS = 3  # of one program, before it may end
MEMORY = 2 << 30  # bytes of address space that a hostile folder may make a program take, above what it has
SECONDS = 120.0  # that reading a hostile folder may last
HOUR = 3600.0
SCRIPTS = {  # first and last code point
    "Latin": (0x41, 0x24F), "Greek": (0x370, 0x3FF), "Cyrillic": (0x400, 0x4FF), "Armenian": (0x531, 0x58A),
    "Hebrew": (0x591, 0x5F4), "Arabic": (0x600, 0x6FF), "Syriac": (0x700, 0x74F), "Thaana": (0x780, 0x7B1),
    "N'Ko": (0x7C0, 0x7FA), "Devanagari": (0x900, 0x97F), "Bengali": (0x980, 0x9FE), "Gurmukhi": (0xA01, 0xA76),
    "Gujarati": (0xA81, 0xAFF), "Oriya": (0xB01, 0xB77), "Tamil": (0xB82, 0xBFA), "Telugu": (0xC00, 0xC7F),
    "Kannada": (0xC80, 0xCF2), "Malayalam": (0xD00, 0xD7F), "Sinhala": (0xD81, 0xDF4), "Thai": (0xE01, 0xE5B),
    "Lao": (0xE81, 0xEDF), "Tibetan": (0xF00, 0xFDA), "Myanmar": (0x1000, 0x109F), "Georgian": (0x10A0, 0x10FF),
    "Hangul": (0xAC00, 0xD7A3), "Ethiopic": (0x1200, 0x139F), "Cherokee": (0x13A0, 0x13FD), "Khmer": (0x1780, 0x17F9),
    "Mongolian": (0x1800, 0x18AA), "Kana": (0x3041, 0x30FF), "Han": (0x4E00, 0x9FFF)}
BETWEEN = " \t\r\n\x00\x0b\u00ad\u200b\u200d\u202e\ufeff\ufffd\u0301\u0337😀🏳\ufe0f🇩𝔘\U0010fffd"
WRONG = ("\ud800", "a\udfffb", b"\xff\xfe", b"\xe2\x28\xa1", 7, None)  # no text, or none that UTF-8 can say


class Part:
    """One part of the soak: how many tries, what failed, and until when it may go on."""

    def __init__(self, name: str, seconds: float, seed: int):
        self.name = name
        self.random = random.Random(f"{name} {seed}")
        self.began = time.monotonic()
        self.until = self.began + seconds
        self.aim = AIMS[name]
        self.done = 0
        self.failed = 0
        self.note = ""

    def goes_on(self) -> bool:
        """Whether there is time, and the aim is not reached."""
        return self.done < self.aim and time.monotonic() < self.until

    def expect(self, well: bool, what: str) -> None:
        """Print and count what failed."""
        if not well:
            self.failed += 1
            print(f"FAILED {self.name}: {what}", flush=True)

    def row(self) -> str:
        """The part as a row of the table."""
        return (f"| {self.name} | {self.done:,} of {self.aim:,} | {self.failed} | "
                f"{time.monotonic() - self.began:.0f} | {self.note} |")


# -- programs in children ---------------------------------------------------------------------------------------------


class Child:
    """A call in a forked process, the first of a group of its own; what it prints goes to a file.

    root: its $DBYTE_ROOT, which is made. memory: bytes of address space that it may take beyond what this process has,
    0: any number.
    """

    def __init__(self, call: Callable[[], int], root: Path, *, memory: int = 0):
        root.mkdir(parents=True, exist_ok=True)
        self.log = tempfile.TemporaryFile("w+", errors="replace")
        self.began = time.monotonic()
        self.seconds = 0.0
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        status = 99
        try:
            os.setsid()
            os.dup2(self.log.fileno(), 1)
            os.dup2(self.log.fileno(), 2)
            os.environ["DBYTE_ROOT"] = str(root)
            if memory:
                resource.setrlimit(resource.RLIMIT_AS, (address_space() + memory,) * 2)
            status = call()
        except BaseException:  # whatever it is, it must be seen in the log
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def end(self, seconds: float = HOUR) -> int | None:
        """Wait so long and return the exit status; then kill its group and return None. Ctrl-C kills it, too."""
        ended = False
        try:
            while time.monotonic() - self.began < seconds:
                if ended := self.has_ended():
                    return self.status
                time.sleep(0.005)
        finally:
            if not ended:
                try:
                    os.killpg(self.pid, signal.SIGKILL)
                except ProcessLookupError:  # it has no group of its own yet
                    os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        return None

    def has_ended(self) -> bool:
        """Whether it ended by itself; its `status` and `seconds` are known then."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.status, self.seconds = os.waitstatus_to_exitcode(status), time.monotonic() - self.began
        return bool(pid)

    def says(self) -> str:
        """The end of what it printed."""
        self.log.seek(0)
        return self.log.read()[-3000:]

    def has_trace(self) -> bool:
        """Whether it printed a traceback."""
        self.log.seek(0)
        return "Traceback (most recent call last)" in self.log.read()


def address_space() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def command(*arguments: object) -> int:
    """A command of dbyte, in a child."""
    from dbyte.__main__ import main

    return main([str(argument) for argument in arguments])


def train(root: Path) -> int:
    """Train teacher and student at the toy size, with a checkpoint after every update, so that each kill meets one."""
    from dbyte.distill import trainer

    trainer.CHECKPOINT_SECONDS, trainer.CHECKPOINT_SHARE = 0.0, 1e9
    return command("train", "--scale", scale(root))


def evaluate(root: Path) -> int:
    """Score the trained student on a column, into a JSON file."""
    (run,) = (path.parent for path in root.glob("runs/*/config.json") if '"2.2 full"' in path.read_text())
    return command("evaluate", "--model", run, "--tasks", "mini/PIQA", "--limit", 4, "--out", root / "scored.json")


def precompute(root: Path) -> int:
    """Transfer the reference's teacher to bytes, from byte probabilities that it reads and keeps first."""
    (teacher,) = (path.parent / "model" for path in (root.parent / "reference").glob("runs/*/config.json")
                  if '"0 teacher"' in path.read_text())
    return command("transfer", "--teacher", teacher, "--tokenizer", "bytes", "--corpus", "world=30000", "--precompute",
                   "--train-bytes", 8_000, "--row-bytes", 250, "--batch-rows", 2, "--heldout-bytes", 2_000)


def notebook(root: Path) -> int:
    """Run the first notebook."""
    if not (root / "notebooks").exists():
        (root / "notebooks").symlink_to(HERE.parent / "notebooks")
    return command("reproduce", "--scale", scale(root), "--only", "00")


def scale(root: Path) -> Path:
    """The file of the toy's scale, beside a root: the root may be a disk that is full."""
    file = root.parent / "toy.toml"
    if not file.exists():
        file.write_text(TOY)
    return file


def bits(root: Path) -> dict[str, str]:
    """What must not depend on kills: checksums of models, metrics without seconds, scores, a notebook's results.

    A model's config.json names the folders that it was read from, so it is compared without this root.
    Models of `precompute` name the reference's.
    """
    found = {}
    for run in sorted(path.parent for path in root.glob("runs/*/complete.json")):
        sums = json.loads((run / "model" / "sums.json").read_text())
        config = (run / "model" / "config.json").read_text()
        sums["config.json"] = config.replace(str(root), "").replace(str(root.parent / "reference"), "")
        found[run.name] = json.dumps(sums, sort_keys=True)
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        kept = [{name: value for name, value in line.items() if "second" not in name} for line in lines]
        found[f"{run.name}/metrics.jsonl"] = json.dumps(kept, sort_keys=True)
    for path in root.glob("scored.json"):
        found[path.name] = json.dumps(json.loads(path.read_text())["student"], sort_keys=True)
    for path in sorted(root.glob("results/toy/*.csv")):
        if path.stem != "notebook_times":
            found[path.name] = path.read_text()
    return found


def trained(root: Path) -> dict[str, str]:
    """Those of `bits` that training alone leaves, without what a transfer has left there."""
    runs = {path.parent.name for path in root.glob("runs/*/complete.json")
            if "transfer" not in json.loads((path.parent / "config.json").read_text())}
    return {name: value for name, value in bits(root).items() if name.split("/")[0] in runs}


def differs(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """What is not the same in both."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


# -- the parts --------------------------------------------------------------------------------------------------------


def kills(part: Part, reference: Path, work: Path) -> None:
    """Kill programs at random moments and start them again; what is left must be what the reference has."""
    programs = (train, precompute, evaluate, notebook)
    whole, counts = {}, dict.fromkeys(programs, 0)
    for program in programs[1:]:  # the reference is trained already
        child = Child(lambda program=program: program(reference), reference)
        part.expect(child.end() == 0, f"{program.__name__} failed: {child.says()}")
        whole[program] = child.seconds
    wanted = bits(reference)
    whole[train] = float((reference / "seconds").read_text())
    while part.goes_on():
        root = work / f"killed-{part.done}"
        for program in programs:
            for attempt in range(KILLS + 1):
                child = Child(lambda program=program, root=root: program(root), root)
                may_end = attempt == KILLS or not part.goes_on()
                status = child.end(HOUR if may_end else part.random.uniform(0, whole[program]))
                part.expect(not child.has_trace(), f"{program.__name__}: {child.says()}")
                if status is not None:
                    break
                counts[program] += 1
                part.done += 1
            part.expect(status == 0, f"{program.__name__} ended with {status} after kills: {child.says()}")
        lost = differs(bits(root), wanted)
        part.expect(not lost, f"after kills {', '.join(lost)} differ from the reference")
        shutil.rmtree(root)
    part.note = ", ".join(f"{program.__name__} {count}" for program, count in counts.items())


def texts(part: Part) -> None:
    """Align, score and continue random texts of all scripts by a random student; in a child."""
    import dbyte
    from dbyte.distill.teacher import train_tokenizer
    from dbyte.evaluate.score import Request, Scorer

    tokenizer = train_tokenizer(["the cat sat on the mat. naïve café 😀 中文 " * 4], vocabulary=280)
    table = dbyte.TokenBytes.from_tokenizer(tokenizer)
    torch.manual_seed(0)
    teacher = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=280, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=1024, initializer_range=0.2, bos_token_id=0, eos_token_id=1, pad_token_id=0)).eval()
    sizes = dbyte.StudentConfig(byte_width=16, encoder_layers=1, decoder_layers=1, ffn_width=16, state_size=8,
                                head_width=8, chunk_size=16)
    student = dbyte.ByteStudent.from_teacher(teacher, config=sizes, tokenizer=tokenizer).eval()
    scorer = Scorer(student, stage=2)
    used: set[str] = set()
    while part.goes_on():
        some = [random_text(part.random, used) for _ in range(16)]
        part.done += len(some)
        try:
            for text, aligned in zip(some, table.align_batch(some), strict=True):
                joined = {bytes(aligned.byte_ids.tolist()), table.decode(aligned.token_ids)}
                part.expect(joined == {text.encode()}, f"{text!r} is aligned as {joined}")
            with torch.inference_mode():
                scores = scorer.score([Request(text.encode(), 0) for text in some if text])
            part.expect(all(-float("inf") < score.nats <= 1e-4 for score in scores), f"{scores} of {some!r}")
            written = dbyte.generate(student, some, stage=2, max_new_bytes=8)
            part.expect(all(one.encode().decode() == one for one in written), f"{written!r} after {some!r}")
        except Exception as error:  # none is expected
            part.expect(False, f"{type(error).__name__}: {error} for {some!r}")
        wrong = part.random.choice(WRONG)
        try:
            dbyte.generate(student, [wrong], stage=2, max_new_bytes=4)
            part.expect(False, f"{wrong!r} was taken as a prompt")
        except ValueError:
            pass
    part.note = f"{len(used)} of {len(SCRIPTS)} scripts"


def random_text(rng: random.Random, used: set[str]) -> str:
    """Words of one to three scripts with odd characters between them; code points that nobody assigned come too."""
    scripts = rng.sample(sorted(SCRIPTS), rng.randint(1, 3))
    used.update(scripts)
    pieces = []
    for _ in range(rng.randint(0, 12)):
        first, last = SCRIPTS[rng.choice(scripts)]
        pieces.append("".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 6))))
        pieces.append("".join(rng.choices(BETWEEN, k=rng.randint(0, 2))))
    text = "".join(pieces)
    return unicodedata.normalize(rng.choice(("NFC", "NFD")), text) if rng.random() < 0.3 else text


def flipped(part: Part, folders: list[Path]) -> None:
    """Change one byte of a sealed folder at a time, which must be noticed by the file's name; in a child."""
    from dbyte.distill.runs import verify

    counts = {folder.name: 0 for folder in folders}
    while part.goes_on():
        folder = part.random.choice(folders)
        path = part.random.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        place, change = part.random.randrange(path.stat().st_size), part.random.randrange(1, 256)
        before = path.read_bytes()[place]
        _put(path, place, before ^ change)
        said = verify(folder)
        _put(path, place, before)
        part.done += 1
        counts[folder.name] += 1
        known = said is not None and (path.name in said or path.name == "sums.json")  # a wrong sum names its file
        part.expect(known, f"byte {place} of {path}, changed by {change}: {said}")
    part.expect(not (wrong := list(filter(None, map(verify, folders)))), f"left changed: {wrong}")
    part.note = ", ".join(f"{count:,} in a {name}" for name, count in counts.items())


def _put(path: Path, place: int, byte: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([byte]))


def sealed(reference: Path, work: Path) -> list[Path]:
    """The models of the reference, and a checkpoint of a training that was killed as soon as it had one."""
    root = work / "interrupted"
    child = Child(lambda: train(root), root)
    while not (found := list(root.glob("runs/*/checkpoint/sums.json"))) and not child.has_ended():
        time.sleep(0.001)
    if found:
        child.end(0.0)
    kept = [path.parent for path in root.glob("runs/*/checkpoint/sums.json")]
    return kept + [path.parent for path in reference.glob("runs/*/model/sums.json")]


def together(part: Part, reference: Path, work: Path) -> None:
    """Start two or three programs on one run."""
    wanted = trained(reference)
    while part.goes_on():
        root = work / f"together-{part.done}"
        children = [Child(lambda root=root: train(root), root) for _ in range(2 + part.done % 2)]
        for child in children:
            status = child.end()
            part.expect(status == 0 and not child.has_trace(), f"ended with {status}: {child.says()}")
        part.expect(not (lost := differs(bits(root), wanted)), f"{', '.join(lost)} differ from one program alone")
        part.done += 1
        shutil.rmtree(root)


def disk(part: Part, reference: Path, work: Path) -> None:
    """Train on small disks, then again with room."""
    wanted = trained(reference)
    whole = sum(path.stat().st_size for path in reference.glob("runs/**/*") if path.is_file())
    refused = 0
    while part.goes_on():
        root = work / f"disk-{part.done}"
        root.mkdir()
        size = int(whole * part.random.uniform(0.02, 0.95))
        if mount("-t", "tmpfs", "-o", f"size={size}", "none", root):
            part.note = "not run: it may not mount here"
            return
        try:
            child = Child(lambda root=root: train(root), root)
            status = child.end()
            said = child.says()
            well = status == 2 and ("make room" in said or "No space left" in said) and not child.has_trace()
            part.expect(well or status == 0, f"on a disk of {size:,} bytes it ended with {status}: {said}")
            refused += status == 2
            mount("-o", "remount,size=1g", root)
            child = Child(lambda root=root: train(root), root)
            part.expect(child.end() == 0, f"with room after {size:,} bytes: {child.says()}")
            part.expect(not (lost := differs(bits(root), wanted)), f"{', '.join(lost)} differ after a full disk")
        finally:
            subprocess.run(["umount", root], check=False)
        part.done += 1
    part.note = f"{refused} disks were too small"


def readonly(part: Part, reference: Path, work: Path) -> None:
    """Run a notebook where one of its folders cannot be written, then where it can be."""
    child = Child(lambda: notebook(reference), reference)
    part.expect(child.end() == 0, f"notebook failed: {child.says()}")
    wanted = {name: value for name, value in bits(reference).items() if name.endswith(".csv")}
    for folder in ("runs", "results", "figures"):
        if not part.goes_on():
            return
        root = work / f"readonly-{folder}"
        (root / folder).mkdir(parents=True)
        if mount("-t", "tmpfs", "-o", "ro", "none", root / folder):
            part.note = "not run: it may not mount here"
            return
        try:
            child = Child(lambda root=root: notebook(root), root)
            status, said = child.end(), child.says()
            well = status == 2 and "Read-only file system" in said and str(root / folder) in said
            part.expect(well and not child.has_trace(), f"with {folder}/ read-only it ended with {status}: {said}")
        finally:
            subprocess.run(["umount", root / folder], check=False)
        child = Child(lambda root=root: notebook(root), root)
        part.expect(child.end() == 0, f"after {folder}/ was read-only: {child.says()}")
        found = {name: value for name, value in bits(root).items() if name.endswith(".csv")}
        part.expect(not (lost := differs(found, wanted)), f"{', '.join(lost)} differ after {folder}/ was read-only")
        part.done += 1


def clocks(part: Part, reference: Path, work: Path) -> None:
    """Train by clocks that jump, kill it, give its files other years, and train again."""
    wanted = trained(reference)
    whole = float((reference / "seconds").read_text())
    looks = kills = 0
    while part.goes_on():
        root = work / f"clocks-{part.done}"
        counted = work / f"looks-{part.done}"
        for seconds in (part.random.uniform(0.2, 0.9) * whole, HOUR):
            seed = part.random.random()
            child = Child(lambda root=root, seed=seed, counted=counted: jumping(root, seed, counted), root)
            status = child.end(seconds)
            kills += status is None
            part.expect(not child.has_trace(), f"by jumping clocks: {child.says()}")
            for path in root.rglob("*"):
                os.utime(path, times=(part.random.uniform(0, 4e9),) * 2, follow_symlinks=False)
        part.expect(status == 0, f"by jumping clocks it ended with {status}: {child.says()}")
        part.expect(not (lost := differs(bits(root), wanted)), f"{', '.join(lost)} differ by jumping clocks")
        looks += int(counted.read_text()) if counted.exists() else 0
        part.done += 1
        shutil.rmtree(root)
    part.note = f"{looks:,} looks at clocks that had jumped, {kills} kills"


def jumping(root: Path, seed: float, counted: Path) -> int:
    """Train by clocks that jump; how often they were looked at goes to a file."""
    rng, monotonic = random.Random(seed), time.monotonic
    ahead, looks = 0.0, 0

    def leaping() -> float:
        nonlocal ahead, looks
        looks += 1
        ahead += rng.uniform(0, HOUR) * (rng.random() < 0.1)
        return monotonic() + ahead

    def wall() -> float:
        nonlocal looks
        looks += 1
        return rng.uniform(0, 4e9)

    time.monotonic, time.time, time.time_ns = leaping, wall, lambda: int(1e9 * wall())
    status = train(root)
    counted.write_text(str(looks))
    return status


def mount(*arguments: object) -> int:
    """mount's exit status."""
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode


# -- hostile folders --------------------------------------------------------------------------------------------------


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mknod, (str(self.path),)


def change_json(path: Path, **values: object) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def header(path: Path, length: int, content: dict) -> None:
    """A safetensors file that says its header has `length` bytes (0: as many as it has)."""
    data = json.dumps(content).encode()
    path.write_bytes(struct.pack("<Q", length or len(data)) + data)


def hostile_folders(canary: Path) -> dict[str, Callable[[Path], None]]:
    """What is done to a copy of a student's folder, by name."""
    code = f"import os\nos.mknod({str(canary)!r})\n"
    weights, config = "model.safetensors", "config.json"

    def pickled(folder: Path) -> None:
        (folder / weights).unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))

    def with_code(folder: Path) -> None:
        (folder / "evil.py").write_text(code)
        classes = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}
        change_json(folder / config, auto_map=classes, model_type="evil")

    def tokenizer_code(folder: Path) -> None:
        (folder / "evil.py").write_text(code)
        change_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]},
                    tokenizer_class="Evil")

    def link_out(folder: Path) -> None:
        (folder / weights).unlink()
        (folder / weights).symlink_to("/proc/self/mem")

    def zip_bomb(folder: Path) -> None:
        with zipfile.ZipFile(folder / weights, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("data", "w") as file:
            for _ in range(256):
                file.write(bytes(1 << 20))

    def nested(folder: Path) -> None:
        (folder / config).write_text("[" * 200_000)

    def template(folder: Path) -> None:
        loop = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
        change_json(folder / "tokenizer_config.json", chat_template=loop)

    huge = {"byte_embedding.weight": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 1 << 62]}}
    return {"a pickle": pickled, "code of a model": with_code, "code of a tokenizer": tokenizer_code,
            "a link out": link_out, "a zip bomb": zip_bomb, "nested JSON": nested, "a looping template": template,
            "a header of 2^62 bytes": lambda folder: header(folder / weights, 1 << 62, {}),
            "a huge shape": lambda folder: header(folder / weights, 0, huge),
            "huge sizes": lambda folder: change_json(folder / config, byte_width=1 << 26)}


HARMLESS = ("a looping template", "code of a tokenizer")  # what they carry is never asked for: the text is written


def hostile(part: Part, reference: Path, work: Path) -> None:
    """Let a program read each hostile folder."""
    (student,) = (path.parent / "model" for path in reference.glob("runs/*/config.json")
                  if '"2.2 full"' in path.read_text())
    canary = work / "canary"
    most = 0.0
    for name, spoil in hostile_folders(canary).items():
        if not part.goes_on():
            return
        folder = work / name.replace(" ", "-")
        shutil.copytree(student, folder)
        spoil(folder)
        child = Child(lambda folder=folder: command("generate", folder, "hello", "--max-new-bytes", 4), work / "asked",
                      memory=MEMORY)
        status = child.end(SECONDS)
        wanted = 0 if name in HARMLESS else 2
        part.expect(status == wanted and not child.has_trace(), f"{name}: {status}, not {wanted}: {child.says()}")
        part.expect(status == 0 or "dbyte: error: " in child.says(), f"{name}: no reason was given: {child.says()}")
        part.expect(not canary.exists(), f"{name} was executed")
        most = max(most, child.seconds)
        part.done += 1
    part.note = f"the longest took {most:.1f} s; at most {MEMORY >> 30} GiB more of address space"


# -- all of it --------------------------------------------------------------------------------------------------------


def inside(part: Part, call: Callable[[], None], root: Path) -> None:
    """Run a part that itself uses dbyte in a child, so that this process never imports it; bring back its counts."""
    answer = root / f"{part.name}.json"

    def run() -> int:
        call()
        answer.write_text(json.dumps({name: getattr(part, name) for name in ("done", "failed", "note")}))
        return 0

    child = Child(run, root)
    status = child.end(part.until - time.monotonic() + HOUR)
    print("".join(line + "\n" for line in child.says().splitlines() if line.startswith("FAILED")), end="")
    if status == 0:
        vars(part).update(json.loads(answer.read_text()))
    part.expect(status == 0, f"the part itself ended with {status}: {child.says()}")


def run_parts(names: list[str], minutes: float, seed: int, work: Path) -> Iterator[Part]:
    """Run the parts one after another, each for its share of the time, and give each as it ends."""
    reference = work / "reference"
    if set(names) - {"texts"}:
        child = Child(lambda: train(reference), reference)
        if child.end() != 0:
            raise RuntimeError(f"the undisturbed training failed: {child.says()}")
        (reference / "seconds").write_text(str(child.seconds))
        print(f"the undisturbed training took {child.seconds:.1f} s", flush=True)
    whole = sum(SHARES[name] for name in names)
    for name in names:
        folders = sealed(reference, work) if name == "bytes" else []
        part = Part(name, 60 * minutes * SHARES[name] / whole, seed)
        if name == "texts":
            inside(part, lambda part=part: texts(part), work)
        elif name == "bytes":
            inside(part, lambda part=part, folders=folders: flipped(part, folders), work)
        else:
            {"kills": kills, "together": together, "disk": disk, "readonly": readonly, "clocks": clocks,
             "hostile": hostile}[name](part, reference, work)
        print(part.row(), flush=True)
        yield part


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--minutes", type=float, default=2.0, help="for all parts together (default 2)")
    asked.add_argument("--parts", default=",".join(AIMS), help="some of them (default all)")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--write", action="store_true", help="write the table next to this file")
    arguments = asked.parse_args()
    names = arguments.parts.split(",")
    if unknown := set(names) - set(AIMS):
        asked.error(f"no part {', '.join(sorted(unknown))}: expected some of {', '.join(AIMS)}")
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.path.insert(0, str(HERE.parent))
    torch.set_num_threads(1)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="dbyte-soak-") as work:
        lines = [told(arguments, Path(work)), "", "| part | tries | failed | seconds | |", "|---|---:|---:|---:|---|"]
        for part in run_parts(names, arguments.minutes, arguments.seed, Path(work)):
            failed += part.failed
            lines.append(part.row())
            if arguments.write:  # after each part: whoever stops this keeps what was found
                (HERE / "soak.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))
    return 1 if failed else 0


def told(arguments: argparse.Namespace, work: Path) -> str:
    """What was asked for, where; a child asks, so that this process never imports dbyte."""
    def ask() -> int:
        from measuring import machine

        print(machine(), end="")
        return 0

    child = Child(ask, work)
    child.end()
    return (f"Faults, seed {arguments.seed}, {arguments.minutes:g} minutes asked for. {child.says()}; harness "
            f"{lm_eval.__version__}.")


if __name__ == "__main__":
    sys.exit(main())
