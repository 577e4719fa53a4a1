#!/usr/bin/env bash
# What both images install: a C++ compiler (DeepSpeed and torch.compile need it at run time) and
# requirements.txt and requirements-cluster.txt. Run by flexmdm.def and by Dockerfile, as root.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${FLEXMDM_PYTHON:-python3}
if ! command -v g++ > /dev/null; then
  apt-get update
  apt-get install -y --no-install-recommends g++
  rm -rf /var/lib/apt/lists/*
fi
pip() { "$PYTHON" -m pip install --no-cache-dir --disable-pip-version-check "$@"; }
pip -r requirements.txt
pip setuptools wheel ninja
DS_BUILD_OPS=0 pip --no-build-isolation -r requirements-cluster.txt
