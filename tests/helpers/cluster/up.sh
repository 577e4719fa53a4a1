#!/bin/bash
# A real Slurm on this one machine: a controller and virtual nodes that accept the production
# scripts unmodified.
#   RUN=$PWD/virtual NNODES=4 bash tests/helpers/cluster/up.sh && . virtual/env.sh
#   sbatch ...; squeue; sinfo
#   RUN=$PWD/virtual bash tests/helpers/cluster/down.sh
# Needs root, and: apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge
#
# Partitions: gpu (the default); gpu_requeue, whose jobs a job in gpu throws out at once; gpu_grace,
# the same with 60 s of warning.
#
#   RUN           folder for all that it writes
#   NNODES        virtual nodes, each with 64 declared cores, 1 TB of declared memory and 4 fake
#                 GPUs
#   BASE_PORT, PREFIX   differ between clusters that run at once
#   OWNER         process id: the cluster goes down by itself when that process has gone
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
RUN=${RUN:?a folder for everything that the cluster writes}
NNODES=${NNODES:-4} BASE_PORT=${BASE_PORT:-17000} PREFIX=${PREFIX:-node} GPUS=4
if [ -s "$RUN/pids/list" ]; then echo "already up in $RUN: run down.sh first" >&2; exit 1; fi
mkdir -p "$RUN"/{state,log,spool,gpus,pids,munge/socket}
chmod 755 "$RUN" "$RUN/munge/socket"
chmod 711 "$RUN/munge"
nodes=$(seq -f "$PREFIX%g" 1 "$NNODES")

# Authentication of its own: key, socket, daemon. --force: RUN may lie in a private folder, all here
# is root's.
[ -s "$RUN/munge/key" ] || {
  dd if=/dev/urandom of="$RUN/munge/key" bs=128 count=1 status=none
  chmod 600 "$RUN/munge/key"
}
munged --force --key-file="$RUN/munge/key" --socket="$RUN/munge/socket/munge" \
  --pid-file="$RUN/munge/pid" --log-file="$RUN/munge/log" --seed-file="$RUN/munge/seed" \
  --num-threads=4
until [ -s "$RUN/munge/pid" ]; do sleep 0.1; done
cat "$RUN/munge/pid" >> "$RUN/pids/list"

# Each node's daemon sees this hosts file in place of /etc/hosts, in a mount namespace of its own.
cp /etc/hosts "$RUN/hosts"
number=0
for node in $nodes; do number=$((number + 1)); echo "127.0.1.$number $node" >> "$RUN/hosts"; done

{
cat <<CONF
ClusterName=virtual
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$BASE_PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$RUN/munge/socket/munge
StateSaveLocation=$RUN/state
SlurmctldPidFile=$RUN/pids/slurmctld.pid
SlurmctldLogFile=$RUN/log/slurmctld.log
SlurmdPidFile=$RUN/pids/slurmd.%n.pid
SlurmdLogFile=$RUN/log/slurmd.%n.log
SlurmdSpoolDir=$RUN/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$RUN/log/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
SlurmdTimeout=15
DefMemPerCPU=1024
EnforcePartLimits=ALL
MpiDefault=none
ReturnToService=1
KillWait=5
MinJobAge=3600
InactiveLimit=0
JobRequeue=1
GresTypes=gpu
CONF
number=0
for node in $nodes; do
  number=$((number + 1))
  echo "NodeName=$node NodeHostname=$node NodeAddr=127.0.1.$number Port=$((BASE_PORT + number))" \
    "CPUs=64 RealMemory=1048576 TmpDisk=200000 Gres=gpu:$GPUS State=UNKNOWN"
done
echo "PartitionName=gpu Nodes=ALL MaxTime=7-00:00:00 PriorityTier=10 State=UP Default=YES"
echo "PartitionName=gpu_requeue Nodes=ALL MaxTime=7-00:00:00 PriorityTier=1" \
  "PreemptMode=REQUEUE GraceTime=0 State=UP"
echo "PartitionName=gpu_grace Nodes=ALL MaxTime=7-00:00:00 PriorityTier=1" \
  "PreemptMode=REQUEUE GraceTime=60 State=UP"
} > "$RUN/slurm.conf"
# GPUs need device files: copies of /dev/null (or, where devices cannot be made, empty files).
for gpu in $(seq 0 $((GPUS - 1))); do
  [ -e "$RUN/gpus/$gpu" ] || mknod "$RUN/gpus/$gpu" c 1 3 2> /dev/null || : > "$RUN/gpus/$gpu"
done
echo "NodeName=${PREFIX}[1-$NNODES] Name=gpu File=$RUN/gpus/[0-$((GPUS - 1))]" > "$RUN/gres.conf"
: > "$RUN/plugstack.conf"

export SLURM_CONF=$RUN/slurm.conf
echo "export SLURM_CONF=$RUN/slurm.conf" > "$RUN/env.sh"
slurmctld -c -i
until [ -s "$RUN/pids/slurmctld.pid" ]; do sleep 0.1; done
cat "$RUN/pids/slurmctld.pid" >> "$RUN/pids/list"
for node in $nodes; do
  mkdir -p "$RUN/spool/$node"
  # shellcheck disable=SC2016
  unshare --uts --mount --propagation private \
    sh -c 'mount --bind "$1" /etc/hosts && hostname "$2" && exec slurmd -N "$2"' \
    node "$RUN/hosts" "$node"
  until [ -s "$RUN/pids/slurmd.$node.pid" ]; do sleep 0.1; done
  cat "$RUN/pids/slurmd.$node.pid" >> "$RUN/pids/list"
done
if [ -n "${OWNER:-}" ]; then
  # shellcheck disable=SC2016
  RUN=$RUN setsid bash -c \
    'while [ -d "/proc/$1" ] && [ -s "$RUN/pids/list" ]; do sleep 1; done; exec bash "$2"' \
    watch "$OWNER" "$HERE/down.sh" < /dev/null > /dev/null 2>&1 &
fi
for _ in $(seq 200); do
  idle=$(sinfo -h -N -p gpu -t idle -o %N | sort -u | wc -l)
  [ "$idle" != "$NNODES" ] || exit 0
  sleep 0.1
done
echo "only $idle of $NNODES nodes are idle; see $RUN/log" >&2
exit 1
