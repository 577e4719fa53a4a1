#!/bin/bash
# Stop what up.sh started, by the recorded process ids and nothing else.
RUN=${RUN:?the folder given to up.sh}
export SLURM_CONF=$RUN/slurm.conf
[ -s "$RUN/pids/list" ] || exit 0
squeue -h -o %A 2> /dev/null | sort -u | xargs -r scancel --quiet 2> /dev/null
# their processes end before the daemons do
for _ in $(seq 100); do [ -n "$(squeue -h -o %A 2> /dev/null)" ] || break; sleep 0.1; done
mapfile -t pids < "$RUN/pids/list"
for pid in $(printf '%s\n' "${pids[@]}" | tac); do
  case "$(tr '\0' ' ' < "/proc/$pid/cmdline" 2> /dev/null)" in
    *slurmd* | *slurmctld* | *munged*) kill "$pid" ;;
  esac
done
for _ in $(seq 100); do
  alive=0
  for pid in "${pids[@]}"; do [ ! -d "/proc/$pid" ] || alive=1; done
  [ $alive = 1 ] || break
  sleep 0.1
done
rm -f "$RUN/pids/list"
