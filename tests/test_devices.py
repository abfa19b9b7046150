"""Training, scoring and writing on another device than the CPU: an emulated one, for machines without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dbyte.model.packed_attention import ALIGNED

SCRIPT = Path(__file__).parent / "second_device.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("precision, close", [("fp32", 1e-3), ("bf16", 3e-2)])
def test_a_second_device_learns_and_says_what_the_cpu_does(found, precision, close):
    assert found[precision]
    for what, values in found[precision].items():
        if what == "blocks":
            continue
        assert values == pytest.approx(found["cpu"][what], rel=close, abs=close), what


def test_blocks_begin_where_a_gpu_can_read_a_mask(found):
    plain, aligned = found["cpu"]["blocks"], found["fp32"]["blocks"]
    assert any(first % ALIGNED for _, _, first in plain) and any(first for _, _, first in aligned)
    for start, _, first in aligned:
        document = start - start % 37  # where the one begins that is open there
        assert first % ALIGNED == 0 and 0 <= document - first < ALIGNED
    assert [start for start, _, _ in aligned] + [3000] == [0] + [end for _, end, _ in aligned]
