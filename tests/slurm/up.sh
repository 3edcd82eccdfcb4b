#!/usr/bin/env bash
# Start a SLURM on this machine for tests: munged, slurmctld and slurmd as root, without systemd or cgroups, with all
# files in one folder. The node has at least two cores and two fake GPUs (device files that are /dev/null).
#   up.sh FOLDER; export SLURM_CONF=FOLDER/slurm.conf; ...; down.sh FOLDER
set -euo pipefail
folder=$(realpath -m "$1")
node=$(hostname -s)
cores=$(nproc)
mkdir -p "$folder"/{state,spool,log,run,gpus}
chmod 755 "$folder"

port=${SLURM_TEST_PORT:-26817}
cat > "$folder/slurm.conf" <<CONF
ClusterName=dlmbenchtest
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its credential expires, by default two minutes.
AuthInfo=socket=$folder/run/munge.sock,cred_expire=10
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
# Use the number of cores below, even if the machine has fewer.
SlurmdParameters=config_overrides
# A node that was set down stays down until it is resumed.
ReturnToService=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=1
KillWait=5
MinJobAge=3600
SlurmctldTimeout=30
SlurmdTimeout=30
MailProg=/bin/true
GresTypes=gpu
NodeName=$node NodeAddr=127.0.0.1 CPUs=$((cores < 2 ? 2 : cores)) RealMemory=1024 Gres=gpu:2 State=UNKNOWN
PartitionName=test Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
: > "$folder/gres.conf"
for number in 0 1; do
  [ -e "$folder/gpus/gpu$number" ] || mknod "$folder/gpus/gpu$number" c 1 3
  echo "Name=gpu File=$folder/gpus/gpu$number" >> "$folder/gres.conf"
done

export SLURM_CONF=$folder/slurm.conf
key=$folder/run/munge.key
[ -s "$key" ] || (umask 077; head -c 1024 /dev/urandom > "$key")
munged --force --num-threads=2 --key-file="$key" --socket="$folder/run/munge.sock" --pid-file="$folder/run/munged.pid" \
  --log-file="$folder/log/munged.log" --seed-file="$folder/run/munged.seed" 2>> "$folder/log/start.log"
slurmctld -c -f "$SLURM_CONF"
slurmd -c -f "$SLURM_CONF" -N "$node"
for _ in $(seq 1 300); do
  state=$(sinfo -h -o %T 2>/dev/null || true)
  [ "$state" = idle ] && exit 0
  sleep 0.1
done
echo "the node is not idle, but '$state':" >&2
tail -n 20 "$folder"/log/slurm*.log >&2
exit 1
