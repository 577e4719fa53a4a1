# How the job scripts refuse a setting: one line, and exit code 2. Sourced by them and by launch.sh.
# shellcheck shell=bash

stop() { echo "error: $*" >&2; exit 2; }

# need NAME WORDS...: the variable NAME must have a value; the words say which
need() { [ -n "${!1:-}" ] || stop "$1: ${*:2}"; }
