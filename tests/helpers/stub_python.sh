#!/usr/bin/env bash
# Stands in for Python where only a shell script's order of commands is under test: notes when each
# command begins and ends in $STUB_CALLS, and makes the folder or file that it would have made.
# A command that contains $STUB_FAILS fails. Interpreters asked for CUDA (-c) say yes.
if [ "$1" = -c ]; then exit 0; fi
made=''
words=("$@")
for place in "${!words[@]}"; do
  case ${words[place]} in --output_dir | --output | --results) made=${words[place + 1]} ;; esac
done
echo "begins $made: $* GPU ${CUDA_VISIBLE_DEVICES-}" >> "$STUB_CALLS"
if [ -n "${STUB_FAILS:-}" ] && [[ $* == *"$STUB_FAILS"* ]]; then
  echo "error: no room for $made" >&2
  exit 2
fi
sleep 0.1
case " $* " in
  *" collect "*) touch "$made/$3.json" ;;
  *" --output_dir "*) mkdir -p "$made/final"; touch "$made/config.json" "$made/final/config.json" ;;
  *) mkdir -p "$(dirname "$made")"; touch "$made" ;;
esac
echo "ends $made" >> "$STUB_CALLS"
