#!/bin/sh
# Writes requirements.txt: every package of the development environment, pinned and hashed, without
# addresses. Needs uv. torch is left out: which build of it is right differs by machine (setup.sh).
set -eu
cd "$(dirname "$0")/.."
if [ -n "${PIP_FIND_LINKS:-}" ] && [ -z "${UV_FIND_LINKS:-}" ]; then
  export UV_FIND_LINKS="$PIP_FIND_LINKS"
fi
overrides=$(mktemp)
trap 'rm -f "$overrides"' EXIT
printf 'visionq @ ./producer\ntorch==%s\n' "$(cat tools/torch-version)" > "$overrides"
uv pip compile --python-version 3.11 --generate-hashes --no-header --no-annotate \
  --quiet --overrides "$overrides" --no-emit-package torch --no-emit-package visionq \
  --extra local --extra fast --extra heif --extra pocket producer/pyproject.toml worker/pyproject.toml requirements-dev.in \
  --output-file requirements.txt
# The CUDA packages belong to torch's own build for NVIDIA cards.
if grep -qE '^(nvidia|cuda|triton)' requirements.txt; then
  echo "requirements.txt lists CUDA packages: resolve it against a CPU build of torch" >&2
  exit 1
fi
