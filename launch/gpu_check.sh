#!/usr/bin/env bash
# What a GPU alone can say, in at most eight minutes of one: launch/gpu_check.sh OUT
#
# OUT gets gpu_check.md, the tables of all parts with device and commit, and a log of each part. Each part has a time
# limit of its own, so that a slow one loses only itself: what it had printed by then is kept. $PYTHON: the interpreter.
# $DEVICE=cpu: every part at toy size, to see that it runs; the part of mamba-ssm's kernels is left out there.
set -euo pipefail
[[ $# == 1 ]] || { sed -n '2,6p' "$0" >&2; exit 2; }
mkdir -p "$1"
out="$(cd "$1" && pwd)"
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
DEVICE="${DEVICE:-cuda}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
failed=0

part() {  # SECONDS NAME COMMAND...
  local seconds="$1" name="$2" began=$SECONDS status=0
  shift 2
  timeout --kill-after=10 "$seconds" "$@" > "$out/$name.log" 2>&1 || status=$?
  ((status == 0)) || failed=1
  echo "$name: status $status after $((SECONDS - began)) s of at most $seconds"
  { printf '\n## %s\n\nStatus %s after %s s of at most %s.\n\n' "$name" "$status" "$((SECONDS - began))" "$seconds"
    grep -E '^\||^[A-Za-z][A-Za-z -]*: |^Copies at|passed|failed' "$out/$name.log" | grep -v '^Loading' || true; } \
    >> "$out/gpu_check.md"
}

commit="$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
name="$("$PYTHON" -c "import sys, torch; print(torch.cuda.get_device_name() if sys.argv[1] != 'cpu' else 'CPU')" "$DEVICE")"
printf '# %s, commit %s\n' "$name" "$commit" > "$out/gpu_check.md"

if [[ "$DEVICE" == cpu ]]; then
  toy=(--toy)
  sizes=(--toy --rows 1 --row-bytes 256 --rounds 1)
else
  toy=()
  sizes=(--dtype bfloat16 --rows 1 --rounds 2)
fi
part 90 tests "$PYTHON" -m pytest -q tests/test_cuda.py tests/test_kernels.py tests/test_devices.py
steps=("$PYTHON" benchmarks/steps.py --device "$DEVICE" --out /dev/null)  # the log has the table
part 80 steps-1B "${steps[@]}" --teacher meta-llama/Llama-3.2-1B "${sizes[@]}"
[[ "$DEVICE" == cpu ]] ||  # these kernels tune themselves at their first use, for as long as the limit lets them
  part 80 steps-1B-triton "${steps[@]}" --teacher meta-llama/Llama-3.2-1B "${sizes[@]}" --backend triton
part 90 steps-3B "${steps[@]}" --teacher meta-llama/Llama-3.2-3B "${sizes[@]}"
part 40 kl "$PYTHON" benchmarks/gpu_parts.py kl --device "$DEVICE" "${toy[@]}"
part 40 targets "$PYTHON" benchmarks/gpu_parts.py targets --device "$DEVICE" "${toy[@]}"
part 60 writing "$PYTHON" benchmarks/gpu_parts.py writing --device "$DEVICE" "${toy[@]}"
exit $failed
