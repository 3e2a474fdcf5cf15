#!/bin/sh
# Fills .venv with what the demo and the tests need. Runs again only when a listed file has changed.
# Needs python3.11 or newer with its venv module; uses uv when it is on PATH, pip otherwise.
set -eu
cd "$(dirname "$0")/.."

fingerprint=$(cat requirements.txt producer/pyproject.toml worker/pyproject.toml \
  tools/torch-version tools/setup.sh | cksum)
stamp=.venv/.installed
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$fingerprint" ]; then exit 0; fi

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

torch="torch==$(cat tools/torch-version)"
# A wheel that pip is told to find on disk is invisible to uv unless it is told the same.
if [ -n "${PIP_FIND_LINKS:-}" ] && [ -z "${UV_FIND_LINKS:-}" ]; then
  UV_FIND_LINKS=$PIP_FIND_LINKS
  export UV_FIND_LINKS
fi

find_python() {
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$candidate
      return
    fi
  done
  die "no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python3 ..."
}

# Debian's python3 may come without ensurepip; a pip of its own can then fill an environment.
make_venv() {
  if "$python" -m venv .venv 2>/dev/null; then return; fi
  rm -rf .venv
  if "$python" -m venv --without-pip .venv 2>/dev/null &&
    "$python" -m pip --python .venv/bin/python install --quiet pip 2>/dev/null; then return; fi
  rm -rf .venv
  die "this python3 can make no environment; on Debian and Ubuntu: apt install python3-venv, or install uv"
}

install_with_uv() {
  say "using uv: $(uv --version)"
  uv venv --quiet --python "$python" .venv
  VIRTUAL_ENV=$PWD/.venv
  export VIRTUAL_ENV
  install_torch_with_uv uv || install_cuda_torch uv pip
  say "installing the packages of requirements.txt"
  uv pip install --quiet --require-hashes -r requirements.txt
  say "installing visionq and visionq-worker from this folder"
  uv pip install --quiet --no-deps --no-build-isolation -e ./producer -e ./worker
}

# $1: the uv to use. The build that uv finds on disk wins; otherwise its CPU index.
install_torch_with_uv() {
  say "installing $torch (CPU build)"
  if "$1" pip install --dry-run "$torch" 2>&1 | grep -qE 'nvidia|cuda'; then
    "$1" pip install --quiet --torch-backend cpu "$torch"
  else
    "$1" pip install --quiet "$torch"
  fi
}

# The arguments are the installer.
install_cuda_torch() {
  say "no CPU build within reach: downloading the CUDA build of torch, several GB"
  "$@" install "$torch"
}

install_with_pip() {
  say "using pip (uv is not on PATH)"
  make_venv
  pip=".venv/bin/python -m pip --disable-pip-version-check --quiet"
  $pip install --upgrade 'pip>=25.1'
  install_torch_with_pip
  say "installing the packages of requirements.txt"
  $pip install --require-hashes -r requirements.txt
  say "installing visionq and visionq-worker from this folder"
  $pip install --no-deps --no-build-isolation -e ./producer -e ./worker
}

install_torch_with_pip() {
  if ! $pip install --dry-run --report - "$torch" | grep -qiE '"name": "(nvidia|cuda|triton)'; then
    say "installing $torch (CPU build)"
    $pip install "$torch"
    return
  fi
  say "pip would take the CUDA build of torch; asking uv for the CPU build instead"
  $pip install uv
  VIRTUAL_ENV=$PWD/.venv
  export VIRTUAL_ENV
  # Unquoted: the installer is several words.
  install_torch_with_uv .venv/bin/uv || install_cuda_torch $pip
}

started=$(date +%s)
say "preparing .venv (once; later runs start at once)"
find_python
# Made anew: an environment of another tool, or a broken one, cannot be filled reliably.
rm -rf .venv
if command -v uv >/dev/null 2>&1; then install_with_uv; else install_with_pip; fi
printf '%s' "$fingerprint" > "$stamp"
say "done in $(($(date +%s) - started)) s"
