# Sourced by the local scripts: sets $PYTHON to an interpreter with requirements.txt installed.
#   FLEXMDM_PYTHON=/path/to/python   use this one unchanged (a conda or cluster environment);
#                                    nothing is installed
#   otherwise .venv in the repository, created on first use and when requirements.txt changes
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
if [ -n "${FLEXMDM_PYTHON:-}" ]; then
  PYTHON=$FLEXMDM_PYTHON
else
  PYTHON=.venv/bin/python
  if ! cmp -s requirements.txt .venv/installed-requirements.txt; then
    command -v python3 > /dev/null || {
      echo "python3 is not on the PATH: Python 3.11 to 3.13 is needed" >&2
      exit 2
    }
    python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || {
      echo "Python 3.11 to 3.13 is needed, this is $(python3 --version)" >&2
      exit 2
    }
    echo "installing requirements.txt into .venv ..."
    python3 -m venv .venv \
      && .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt \
      && cp requirements.txt .venv/installed-requirements.txt || exit 1
  fi
fi
export PYTHON TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_TELEMETRY=1
