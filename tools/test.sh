#!/bin/sh
# The quick suite, in two halves side by side. The fault matrix waits more than it computes, so it
# goes first in the one that computes most.
#   tools/test.sh PYTHON
set -u
python=$1
beside="tests/faults tests/engine tests/model tests/bench tests/bench_engine tests/pocket/training"
beside="$beside tests/eval_pocket tests/service"
ignored=""
for path in $beside; do ignored="$ignored --ignore=$path"; done
log=$(mktemp)
# shellcheck disable=SC2086 # a list of words
"$python" -m pytest $beside >"$log" 2>&1 &
other=$!
trap 'kill "$other" 2>/dev/null; rm -f "$log"' EXIT
trap 'exit 130' INT TERM
# shellcheck disable=SC2086
"$python" -m pytest $ignored
rest=$?
wait "$other"
code=$?
echo "what ran beside all that:"
cat "$log"
[ "$rest" -eq 0 ] && [ "$code" -eq 0 ]
