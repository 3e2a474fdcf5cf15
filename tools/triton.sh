#!/bin/sh
# Puts Triton beside a CPU build of torch, which brings none, so that the kernels' tests can run in
# its interpreter. Only tests need it: without it they skip and say so, so a failure here stops CI only.
# No hashes: it is one wheel, its version pinned, and no part of what a worker installs.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'triton: %s\n' "$*"; }

case "$(uname -s)-$(uname -m)" in
  Linux-x86_64 | Linux-aarch64) ;;
  *) exit 0 ;; # no wheels elsewhere
esac
if .venv/bin/python -c 'import triton' 2>/dev/null; then exit 0; fi

triton="triton==$(cat tools/triton-version)"
say "installing $triton (about 700 MB) for the kernels' tests"
if command -v uv >/dev/null 2>&1; then
  set -- env VIRTUAL_ENV="$PWD/.venv" uv pip install
  # A wheel that pip is told to find on disk is invisible to uv unless it is told the same.
  if [ -n "${PIP_FIND_LINKS:-}" ] && [ -z "${UV_FIND_LINKS:-}" ]; then
    export UV_FIND_LINKS="$PIP_FIND_LINKS"
  fi
else
  set -- .venv/bin/python -m pip --disable-pip-version-check install
fi
if "$@" --quiet --no-deps "$triton"; then exit 0; fi
say "could not install $triton: the kernels' tests will be skipped" >&2
if [ "${CI:-}" = true ]; then exit 1; fi
