#!/bin/bash
# sbatch, then wait for the job's end (sbatch --wait looks too seldom: 42 s for a job of 9 s). Exit
# code 0 only for COMPLETED.
#   bash tests/helpers/cluster/sbatch_wait.sh [sbatch's options] scripts/x.sh [its arguments]
job=$(sbatch --parsable "$@") || exit $?
while :; do
  line=$(scontrol show job --oneliner "$job" | head -n 1)
  state=$(grep -o 'JobState=[A-Z_]*' <<< "$line" | cut -d = -f 2)
  case $state in
    PENDING | CONFIGURING | RUNNING | COMPLETING | REQUEUED | SUSPENDED) sleep 0.2 ;;
    *) break ;;
  esac
done
echo "job $job $state $(grep -o -E '(RunTime|ExitCode)=[^ ]*' <<< "$line" | tr '\n' ' ')"
[ "$state" = COMPLETED ]
