# Sourced by the local scripts: sets $PYTHON to an interpreter with requirements.txt installed. By
# itself it only installs: bash scripts/environment.sh && . .venv/bin/activate
#   FLEXMDM_PYTHON=/path/to/python   use this one unchanged (a conda or cluster environment);
#                                    nothing is installed
#   otherwise .venv in the repository, created on first use and when requirements.txt changes
# On Linux without an NVIDIA GPU it takes torch's CPU build: the other one brings 2 GB of CUDA.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# install FILE: the packages of a requirements file into .venv, unless they are there
install() {
  local pip=(.venv/bin/pip --disable-pip-version-check) quiet=() cpu='' what=$1
  [ -z "${FLEXMDM_PYTHON:-}" ] || return 0
  cmp -s "$1" ".venv/installed-$1" && return 0
  command -v python3 > /dev/null || {
    echo "python3 is not on the PATH: Python 3.11 to 3.13 is needed" >&2
    exit 2
  }
  python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || {
    echo "Python 3.11 to 3.13 is needed, this is $(python3 --version)" >&2
    exit 2
  }
  [ -t 1 ] || quiet=(--quiet)  # a log needs no bars of the downloads
  python3 -m venv .venv || exit 1
  if grep -q ^torch== "$1" && [ "$(uname)" = Linux ] && ! command -v nvidia-smi > /dev/null; then
    cpu=yes
    what+=" (no NVIDIA GPU: torch's CPU build; 0.3 GB to download in all)"
  fi
  echo "installing $what into .venv ..."
  if [ -n "$cpu" ]; then
    # uv knows where torch's CPU build is; everything else comes from the usual index
    "${pip[@]}" install --quiet uv==0.13.9 && .venv/bin/uv pip install "${quiet[@]}" --no-deps \
      --python .venv/bin/python --torch-backend cpu "$(grep ^torch== "$1")" \
      || echo "torch's CPU build cannot be had: taking the one with CUDA" >&2
  fi
  "${pip[@]}" install "${quiet[@]}" -r "$1" && cp "$1" ".venv/installed-$1" || exit 1
}

if [ -n "${FLEXMDM_PYTHON:-}" ]; then
  PYTHON=$FLEXMDM_PYTHON
else
  PYTHON=.venv/bin/python
  install requirements.txt
fi
export PYTHON TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1
