#!/usr/bin/env bash
# Makes a virtual environment with vLLM's CPU build, this package and the `vllm` tests' needs.
#
#   serving/vllm/env/make.sh [DIRECTORY]      (default .venv-vllm; PYTHON names the interpreter, 3.11 or later)
#
# Where the environment already stands and its recipe has not changed, only this package's entry points are refreshed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
venv=${1:-$root/.venv-vllm}
version=0.32.0

recipe=$(cat "$here"/make.sh "$here"/requirements-*.txt "$here"/vllm_alias/pyproject.toml | sha256sum)
pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
if [[ -f $venv/recipe && $(<"$venv/recipe") == "$recipe" ]]; then
    exec "${pip[@]}" install --no-deps --no-build-isolation -e "$root"
fi
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
"${pip[@]}" install --no-deps -r "$here/requirements-cpu.txt" -r "$here/requirements-test.txt"
"${pip[@]}" install --no-deps --target "$venv/share/quantize" -r "$here/requirements-quantize.txt"

# Built from a copy: setuptools leaves its working files beside the project.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$here/vllm_alias" "$work/"
"${pip[@]}" install --no-deps --no-build-isolation "$work/vllm_alias"
"${pip[@]}" install --no-deps --no-build-isolation -e "$root"

# vLLM's tests come in its source archive alone. pip reads the archive's metadata by running its setup.py, which without
# these two variables would want a compiler for a GPU and a git checkout.
VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE=$version \
    "${pip[@]}" download --no-deps --no-build-isolation --no-binary vllm -d "$work" "vllm==$version"
mkdir -p "$venv/share/vllm"
tar -xzf "$work/vllm-$version.tar.gz" -C "$venv/share/vllm" --strip-components=1 "vllm-$version/tests"
echo "$recipe" > "$venv/recipe"
