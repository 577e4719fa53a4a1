#!/usr/bin/env bash
# All tests that every change must pass; --full adds the slow ones. Other arguments are passed to
# pytest (a file, -k NAME, -x).
#   bash scripts/test.sh
#   bash scripts/test.sh --full
#   bash scripts/test.sh tests/network/test_losses.py
#   bash scripts/test.sh --quick              the mathematics, the layout and external input: under
#                                             two minutes
# FLEXMDM_GOLDEN and FLEXMDM_DATA name folders of external numbers and data (tests/conftest.py);
# tests that need them are skipped without.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
install requirements-test.txt
if [ "${1:-}" = --quick ]; then
  shift
  set -- tests/scripts/test_layout.py tests/network/test_interpolant.py \
    tests/network/test_losses.py tests/sampling/test_sampler_exactness.py \
    tests/sampling/test_llada_sampler.py tests/evaluation/test_answer_rule.py \
    tests/evaluation/test_given_generations.py tests/common/test_given_files.py \
    tests/sampling/test_sampler_input.py "$@"
fi
exec "$PYTHON" -m pytest -q -rs --durations=15 "$@" \
  --rootdir . $(printf '%s\n' "$@" | grep -q '^tests' || echo tests)
