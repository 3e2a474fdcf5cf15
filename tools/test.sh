#!/bin/sh
# The quick suite. The fault matrix waits more than it computes, so it runs beside the rest.
#   tools/test.sh PYTHON
set -u
python=$1
log=$(mktemp)
"$python" -m pytest tests/faults >"$log" 2>&1 &
faults=$!
trap 'kill "$faults" 2>/dev/null; rm -f "$log"' EXIT
trap 'exit 130' INT TERM
"$python" -m pytest --ignore=tests/faults
rest=$?
wait "$faults"
code=$?
echo "the fault matrix, which ran beside all that:"
cat "$log"
[ "$rest" -eq 0 ] && [ "$code" -eq 0 ]
