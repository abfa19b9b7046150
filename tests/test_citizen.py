"""A trained student among other programs: a tokenizer without tokens, a generated card, the hub, the Auto classes."""

import base64
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import TEXTS, make_student
from test_curriculum import TOY
from transformers import AutoModel, AutoTokenizer

import dbyte
from dbyte.__main__ import main
from dbyte.distill.curriculum import curriculum, run_steps
from dbyte.distill.runs import file_hash
from dbyte.distill.teacher import teacher_run
from dbyte.evaluate.model_card import model_card
from dbyte.paths import ROOT


@pytest.fixture(scope="module")
def runs():
    return run_steps(TOY, curriculum(TOY)[:3], seed=0)


@pytest.mark.parametrize("text", [*TEXTS, "", "<|bos|><|eos|>", " \r\n\t\x00", "\ufeff🏳️‍🌈 e\u0301"])
def test_the_ids_of_a_text_are_bos_and_its_bytes(text):
    tokenizer = dbyte.ByteTokenizer()
    assert tokenizer(text).input_ids == [254, *text.encode()]
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_a_padded_batch_reads_as_each_text_alone(teacher):
    student, tokenizer = make_student(teacher), dbyte.ByteTokenizer()
    batch = tokenizer(TEXTS[:3], padding=True, return_tensors="pt")
    with torch.no_grad():
        together = student(batch.input_ids, mask_BL=batch.attention_mask).byte_logits
        for row, text in enumerate(TEXTS[:3]):
            alone = student(tokenizer(text, return_tensors="pt").input_ids).byte_logits[0]
            torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-4, atol=1e-4)


def test_a_saved_byte_tokenizer_needs_no_dbyte(tmp_path):
    dbyte.ByteTokenizer().save_pretrained(tmp_path)
    code = ("import sys; from transformers import AutoTokenizer; "
            f"found = AutoTokenizer.from_pretrained({str(tmp_path)!r}); "
            "print(found('é<|eos|>').input_ids, found.vocab_size, 'dbyte' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == f"{[254, *'é<|eos|>'.encode()]} 256 False", done.stderr
    assert AutoTokenizer.from_pretrained(tmp_path)("é").input_ids == [254, *"é".encode()]


def test_the_auto_class_writes_what_the_student_writes(runs):
    writes = [dbyte.generate(kind.from_pretrained(runs[-1].model_folder), ["Anna lives"], max_new_bytes=8)
              for kind in (AutoModel, dbyte.ByteStudent)]
    assert writes[0] == writes[1]


def test_what_the_page_shows_of_other_programs_runs_as_it_is_printed(runs):
    """But for the name of the run, and the upload."""
    page = (ROOT / "docs" / "using.md").read_text(encoding="utf-8").split("## Among other programs")[1]
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    shown = [line for line in code.splitlines() if "push_to_hub" not in line]
    names = {}
    exec("\n".join(shown).replace("runs/<hash>/model", str(runs[-1].model_folder)), names)
    assert isinstance(names["student"], dbyte.ByteStudent)
    written = names["write"](["Anna lives in", "Leo has"])
    assert written == dbyte.generate(names["student"], ["Anna lives in", "Leo has"], max_new_bytes=64, temperature=0.8,
                                     stop=["\n"])


def test_a_card_says_what_the_run_was_made_of_and_what_it_scored(runs, tmp_path):
    folder = runs[-1].folder
    assert "No evaluation of this model was found" in model_card(folder, evaluated=tmp_path)
    out = tmp_path / "one.json"
    assert main(["evaluate", "--model", str(folder), "--tasks", "mini/PIQA", "--limit", "4", "--out", str(out)]) == 0
    other = json.loads(out.read_text())
    other["asked"]["model"] = str(runs[0].folder)
    other["student"]["mini/PIQA"]["accuracy"] = 0.875
    (tmp_path / "other.json").write_text(json.dumps(other))
    card = model_card(folder / "model", title="me/mine", evaluated=tmp_path)
    scored = json.loads(out.read_text())["student"]["mini/PIQA"]
    assert f"| mini/PIQA | acc | 4 | 50.0 | {100 * scored['accuracy']:.1f} ± " in card and "87.5" not in card
    for run in runs:
        assert f"`{run.folder.name}`" in card and run.config["data"] in card
        assert file_hash(run.model_folder / "model.safetensors") in card
    assert f"{sum(run.facts()['train_bytes'] for run in runs) / 1e6:,.4g} MB" in card
    assert 'from_pretrained("me/mine")' in card


@pytest.mark.parametrize("where, says", [
    (lambda runs: ROOT / "docs", "is no finished run"), (lambda runs: teacher_run(TOY, seed=0), "holds no student")])
def test_a_folder_that_no_card_fits_is_refused(runs, where, says):
    with pytest.raises(ValueError, match=says):
        model_card(where(runs))


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as one upload needs: repositories, and files in the body of a commit."""

    files: dict[str, bytes] = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            reply = {"url": f"http://{self.headers['Host']}/me/mine", "id": "me/mine"}
        elif "/preupload/" in self.path:
            reply = {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                               for file in json.loads(body)["files"]]}
        elif "validate-yaml" in self.path:
            reply = {"errors": [], "warnings": []}
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            self.files.update({line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines
                               if line["key"] == "file"})
            reply = {"commitUrl": f"http://{self.headers['Host']}/me/mine/commit/0", "commitOid": "0", "success": True}
        self.answer(reply)

    def do_GET(self):
        self.answer({"id": "me/mine", "sha": "0", "siblings": []})

    def answer(self, reply):
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_a_student_arrives_on_a_hub_whole_and_with_its_card(runs, monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {"ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": False}.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    try:
        address = dbyte.push_to_hub(runs[-1].folder, "me/mine")
    finally:
        server.shutdown()
    assert address == f"http://127.0.0.1:{server.server_port}/me/mine"
    here = {path.name: path.read_bytes() for path in runs[-1].model_folder.iterdir() if path.name != "sums.json"}
    assert here.keys() <= Hub.files.keys() and "sums.json" not in Hub.files
    assert all(Hub.files[name] == data for name, data in here.items() if name != "config.json")
    assert str(ROOT).encode() in here["config.json"] and b"_name_or_path" not in Hub.files["config.json"], "private"
    folder = tmp_path / "arrived"
    folder.mkdir()
    for name in here:
        (folder / name).write_bytes(Hub.files[name])
    arrived = dbyte.ByteStudent.from_pretrained(folder).state_dict()
    assert all(weight.equal(arrived[name]) for name, weight in
               dbyte.ByteStudent.from_pretrained(runs[-1].model_folder).state_dict().items())
    assert Hub.files["README.md"].decode() == model_card(runs[-1].folder, title="me/mine")


def test_a_damaged_model_is_not_published(runs, tmp_path, capsys):
    weights = runs[1].model_folder / "model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert main(["push", str(runs[1].folder), "me/mine", "--dry-run"]) == 2
    finally:
        weights.write_bytes(whole)
    assert "model.safetensors is damaged" in capsys.readouterr().err
    assert main(["push", str(runs[1].folder), "me/mine", "--dry-run"]) == 0


def test_names_that_the_pages_show_are_there():
    shown = re.findall(r"dbyte\.(\w+)\(", (ROOT / "docs" / "using.md").read_text(encoding="utf-8"))
    assert {"ByteTokenizer", "push_to_hub"} <= set(shown) and all(hasattr(dbyte, name) for name in shown)
