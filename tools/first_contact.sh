#!/usr/bin/env bash
# The first minutes with a GPU, in seven steps of under nine minutes each: tools/first_contact.sh STEP [FOLDER]
#
#   1 values       what the machine is; values of all ops, small and large
#   2 matrix       the rest of the matrix, but what follows
#   3 compiled     torch.compile; what lies beyond 2^31
#   4 sanitizers   memcheck, racecheck, initcheck, synccheck of compute-sanitizer
#   5 times        every op beside other libraries, with a cold cache
#   6 profiles     Nsight Compute's view of the kernels that take longest
#   7 graphs       CUDA graphs and streams; without the CUDA kernels
#
# If there is little time: 1, 5, 2, 4. Nothing is installed and nothing is built: any Python will do that has torch and
# pytest (PYTHON=python3), with the libraries that lie in python/handgrad/lib. For profiles by line they are built with
# CUDAFLAGS=-lineinfo. What comes out lies in FOLDER, device-results unless told.
# DRY_RUN=1 goes through a step on the CPU, with the emulated kernels and few tests, for a machine without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."

step=${1:-}
case $step in
  1 | values) step=1 ;;
  2 | matrix) step=2 ;;
  3 | compiled) step=3 ;;
  4 | sanitizers) step=4 ;;
  5 | times) step=5 ;;
  6 | profiles) step=6 ;;
  7 | graphs) step=7 ;;
  *)
    sed -n '2,15p' "$0" >&2
    echo "STEP must be 1 to 7, or its name; got '$step'" >&2
    exit 2
    ;;
esac
mkdir -p "${2:-device-results}" || exit 2
out=$(cd "${2:-device-results}" && pwd)
python=${PYTHON:-python3}
jobs=${JOBS:-8}
families=()
for folder in csrc/*/; do
  name=$(basename "$folder")
  # common and emulator hold no ops.
  compgen -G "csrc/$name/*/*_cuda.cu" >/dev/null && families+=("tests/$name")
done
export PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
pytest=("$python" -m pytest -q -p no:cacheprovider -o filterwarnings=default)

chosen="test_matrix" small=()
if [ -n "${DRY_RUN:-}" ]; then
  export HANDGRAD_BACKEND=emulated
  # One op's stand for all.
  chosen+=" and float32" jobs=1 small=(--small) families=(tests/*/test_local_response_norm.py)
else
  export HANDGRAD_TEST_DEVICE=cuda
  "$python" -c "import sys, torch; torch.cuda.is_available() or sys.exit('a GPU is needed; DRY_RUN=1 does without')" || exit 1
fi

red=0
# log NAME SECONDS COMMAND...: runs it for so long at most; what it says is shown and kept. A red one ends nothing.
log() {
  local name=$1 limit=$2
  shift 2
  echo "== $name: $*"
  timeout "$limit" "$@" 2>&1 | tee "$out/$name.log"
  local status=${PIPESTATUS[0]}
  echo "exit status $status" | tee -a "$out/$name.log"
  # 5: there is no such test, which is right where one op's stand for all.
  [ "$status" -eq 0 ] || { [ "$status" -eq 5 ] && [ -n "${DRY_RUN:-}" ]; } || red=1
}
# ask NAME SECONDS PROCESSES TESTS [OPTIONS...]: the tests of all ops whose names fit.
ask() {
  local name=$1 limit=$2 processes=(-p no:xdist) tests=$4
  if [ "$3" -gt 1 ] && "$python" -c "import xdist" 2>/dev/null; then processes=(-n "$3" --dist worksteal); fi
  shift 4
  log "$name" "$limit" "${pytest[@]}" "${processes[@]}" "$@" "${families[@]}" -k "$chosen and $tests"
}
has() {
  command -v "$1" >/dev/null && return
  echo "$1 is not here: left out" | tee "$out/$1.missing"
  return 1
}

case $step in
  1)
    if has nvidia-smi; then log device 30 nvidia-smi; fi
    log info 60 "$python" -m handgrad info
    ask values 440 "$jobs" "(02_cuda or 01_cpu)" --maxfail=20
    ;;
  2)
    ask matrix 530 "$jobs" "not 02_cuda and not 06_indexing and not 07_compile" --durations=15
    ;;
  3)
    export TORCHINDUCTOR_COMPILE_THREADS=2
    ask compiled 300 "$((jobs < 6 ? jobs : 6))" "07_compile"
    # Gigabytes each: one after the other.
    ask beyond_int32 230 1 "06_indexing"
    ;;
  4)
    if has compute-sanitizer; then
      export PYTORCH_NO_CUDA_MEMORY_CACHING=1
      for tool in memcheck racecheck initcheck synccheck; do
        timeout 530 compute-sanitizer --tool "$tool" --error-exitcode 9 "${pytest[@]}" -p no:xdist "${families[@]}" \
          -k "$chosen and (05_empty or 02_cuda and float32 and not large)" >"$out/$tool.log" 2>&1 &
      done
      wait
      for tool in memcheck racecheck initcheck synccheck; do
        tail -n 4 "$out/$tool.log"
        grep -Eq "ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards" "$out/$tool.log" || red=1
      done
    fi
    ;;
  5) log times 530 "$python" tests/device_times.py "${small[@]}" ;;
  6)
    if has ncu; then
      for kernel in output_kernel grad_input columns_kernel differentiate sum_bias pass_kernel choose contiguous; do
        timeout 65 ncu --clock-control none --set full --import-source on -k "regex:$kernel" -c 3 -f \
          -o "$out/$kernel" "$python" tests/device_times.py --once >"$out/$kernel.log" 2>&1
        [ -e "$out/$kernel.ncu-rep" ] || red=1
      done
    fi
    ;;
  7)
    log off 60 env HANDGRAD_CUDA=off "$python" -m handgrad info
    log graphs 300 "${pytest[@]}" -p no:xdist tests/test_graphs.py
    ;;
esac
ls -l "$out"
exit "$red"
