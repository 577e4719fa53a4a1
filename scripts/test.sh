#!/usr/bin/env bash
# All tests that every change must pass; --full adds the slow ones. Other arguments go to pytest (a file, -k NAME, -x).
#   bash scripts/test.sh                      bash scripts/test.sh --full                     bash scripts/test.sh tests/test_losses.py
# FLEXMDM_GOLDEN and FLEXMDM_DATA name folders of outside numbers and data (tests/conftest.py); what needs them is skipped without.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
exec "$PYTHON" -m pytest -q -rs --durations=15 "$@" --rootdir . $(printf '%s\n' "$@" | grep -q '^tests' || echo tests)
