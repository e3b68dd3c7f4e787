#!/usr/bin/env bash
# A real SLURM of one node for the tests. Everything it has lies in one folder and its ports are its own, so it runs
# beside a SLURM that the machine may already have and leaves nothing in /etc.
#
#   tests/slurm/cluster.sh up       start it, or restart it where its settings are to change; returns when jobs can run
#   tests/slurm/cluster.sh down     cancel its jobs, stop what was started, remove the folder
#   tests/slurm/cluster.sh status   say what runs; 0 when jobs can run, 3 when not
#   tests/slurm/cluster.sh env      the shell lines that point sbatch, squeue … at this cluster: eval "$(… env)"
#
# Needs root and, on Debian 12: apt-get install --no-install-recommends slurm-wlm munge slurmdbd mariadb-server
#
# Settings, read by `up`:
#   CLUSTER_ACCOUNTING   1: sacct works (slurmdbd and a private database); 0: sacct fails, as on sites without accounting
#   CLUSTER_MAX_ARRAY    MaxArraySize, by default SLURM's own 1001; 3 makes arrays of more than three tasks too large
#   CLUSTER_CPUS         cores that the node claims, whatever the machine has (24)
#   CLUSTER_GPUS         stand-ins for GPUs: jobs get CUDA_VISIBLE_DEVICES but no GPU (2)
#   CLUSTER_DIR          the folder (/run/brainlab-cluster; sockets lie in it, so keep it short)
#   CLUSTER_PORT         the first of three ports (by default the first three from 16817 that are free)
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

ACCOUNTING=${CLUSTER_ACCOUNTING:-1}
MAX_ARRAY=${CLUSTER_MAX_ARRAY:-1001}
CPUS=${CLUSTER_CPUS:-24}
GPUS=${CLUSTER_GPUS:-2}
DIR=${CLUSTER_DIR:-/run/brainlab-cluster}
PORT=$(cat "$DIR/port" 2>/dev/null || echo "${CLUSTER_PORT:-}")  # a cluster that is up keeps its own
NODE=$(hostname -s)
PATIENCE_S=90
export SLURM_CONF=$DIR/etc/slurm.conf
# What a user set for the commands of another cluster must not reach this one.
unset SLURM_CLUSTERS SBATCH_PARTITION SLURM_PARTITION SQUEUE_FORMAT

tell() { printf 'cluster.sh: %s\n' "$*" >&2; }
fail() { local code=$1; shift; tell "$@"; exit "$code"; }

# A daemon is known by its process id and the moment it started: an id alone may belong to somebody else by now.
birth() { sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" {print $20}'; }

alive() {  # alive NAME: prints its process id
  local id born
  read -r id born 2>/dev/null <"$DIR/daemons/$1" || return 1
  [ -n "$born" ] && [ "$(birth "$id")" = "$born" ] && echo "$id"
}

launch() {  # launch NAME COMMAND...: the daemon stays in the foreground of a session of its own
  local name=$1; shift
  setsid "$@" </dev/null >>"$DIR/log/$name.out" 2>&1 9>&- &
  local id=$!
  sleep 0.05  # until setsid has become the daemon
  echo "$id $(birth $id)" >"$DIR/daemons/$name"
}

halt() {  # halt NAME...: TERM, and KILL after twenty seconds
  local name id tries
  for name in "$@"; do
    if id=$(alive "$name"); then
      kill "$id" 2>/dev/null || true
      for tries in {1..200}; do alive "$name" >/dev/null || break; sleep 0.1; done
      if alive "$name" >/dev/null; then tell "$name does not end, killing it"; kill -KILL "$id" || true; fi
    fi
    rm -f "$DIR/daemons/$name"
  done
}

await() {  # await NAME COMMAND...: until the command succeeds, while the daemon lives
  local name=$1 until=$((SECONDS + PATIENCE_S)); shift
  until "$@" >/dev/null 2>&1; do
    alive "$name" >/dev/null || { tell "$name ended by itself"; return 1; }
    ((SECONDS < until)) || { tell "$name is not ready after $PATIENCE_S s"; return 1; }
    sleep 0.1
  done
}

require() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || fail 2 "needs $program. Hint: apt-get update && apt-get install -y" \
      "--no-install-recommends slurm-wlm munge slurmdbd mariadb-server"
  done
}

settings() { echo "accounting=$ACCOUNTING max_array=$MAX_ARRAY cpus=$CPUS gpus=$GPUS"; }
accepts_jobs() { sinfo -h -o %t 2>/dev/null | grep -qE '^(idle|mix|alloc)$'; }
is_up() { alive slurmctld >/dev/null && alive slurmd >/dev/null && accepts_jobs; }
authenticates() { munge -S "$DIR/munge/socket" -n | unmunge -S "$DIR/munge/socket"; }
query() { mariadb --no-defaults --socket="$DIR/database/socket" --user=root --execute="$1"; }

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

choose_ports() {  # once for the life of the folder: other clusters may run on this machine
  local base
  for base in ${PORT:-16817 17817 18817 19817 21817 22817}; do
    if ! taken "$base" && ! taken $((base + 1)) && ! taken $((base + 2)); then
      PORT=$base
      echo "$PORT" >"$DIR/port"
      return 0
    fi
  done
  fail 1 "ports from ${PORT:-16817} are in use. Hint: CLUSTER_PORT=30817"
}

cancel_all() {
  local tries
  alive slurmctld >/dev/null || return 0
  squeue -h -o %A 2>/dev/null | sort -u | xargs -r scancel 2>/dev/null || true
  for tries in {1..150}; do [ -n "$(squeue -h -o %A 2>/dev/null)" ] || return 0; sleep 0.1; done
  tell "some jobs did not end"
}

write_configuration() {
  local memory first=$1 device
  memory=$(awk '$1 == "MemTotal:" {print int($2 / 1024) - 256}' /proc/meminfo)
  cat >"$SLURM_CONF" <<CONF
ClusterName=brainlab
SlurmctldHost=$NODE(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
StateSaveLocation=$DIR/state/controller
SlurmdSpoolDir=$DIR/state/node
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.log
AuthType=auth/munge
# A requeued job waits until its old credential has expired: seconds here, two minutes by default.
AuthInfo=socket=$DIR/munge/socket,cred_expire=5
# A container has no cgroups of its own.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
# The partition "high" takes the node from "debug"; its jobs first get the signal that they asked for.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=5
MinJobAge=300
MessageTimeout=30
ReturnToService=2
MaxArraySize=$MAX_ARRAY
FirstJobId=$first
AccountingStorageType=accounting_storage/$([ "$ACCOUNTING" = 1 ] && echo slurmdbd || echo none)
$([ "$ACCOUNTING" = 1 ] && printf '%s\n' AccountingStorageHost=localhost "AccountingStoragePort=$((PORT + 2))" \
  "AccountingStoragePass=$DIR/munge/socket")
# The node claims what is written here, also where the machine is smaller.
SlurmdParameters=config_overrides
$([ "$GPUS" -gt 0 ] && echo GresTypes=gpu)
NodeName=$NODE NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$memory $([ "$GPUS" -gt 0 ] && echo "Gres=gpu:$GPUS") State=UNKNOWN
PartitionName=debug Nodes=$NODE Default=YES State=UP MaxTime=120 PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=$NODE State=UP MaxTime=120 PriorityTier=10 PreemptMode=OFF
CONF
  : >"$DIR/etc/gres.conf"
  for ((device = 0; device < GPUS; device++)); do
    # SLURM wants a character device for each; these do what /dev/null does. Their numbers become CUDA_VISIBLE_DEVICES.
    [ -c "$DIR/gpu$device" ] || mknod -m 666 "$DIR/gpu$device" c 1 3 ||
      fail 1 "cannot make the devices of stand-in GPUs. Hint: CLUSTER_GPUS=0"
    echo "NodeName=$NODE Name=gpu File=$DIR/gpu$device Flags=nvidia_gpu_env" >>"$DIR/etc/gres.conf"
  done
}

start_accounting() {
  if ! alive database >/dev/null; then
    mkdir -p "$DIR/database"
    [ -d "$DIR/database/data/mysql" ] || mariadb-install-db --no-defaults --user=root --datadir="$DIR/database/data" \
      --skip-test-db --auth-root-authentication-method=socket --auth-root-socket-user=root >"$DIR/log/install.out" 2>&1
    # It holds tests for minutes: no need to wait for the disk.
    launch database mariadbd --no-defaults --user=root --datadir="$DIR/database/data" --skip-networking \
      --socket="$DIR/database/socket" --pid-file="$DIR/database/pid" --innodb-buffer-pool-size=64M \
      --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900
    await database query 'select 1'
    query "create database if not exists accounting; create user if not exists slurm@localhost identified by 'slurm';
           grant all on accounting.* to slurm@localhost"
  fi
  if ! alive slurmdbd >/dev/null; then
    (umask 077; cat >"$DIR/etc/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket
SlurmUser=root
DbdHost=localhost
DbdPort=$((PORT + 2))
PidFile=$DIR/slurmdbd.pid
LogFile=$DIR/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounting
CONF
    launch slurmdbd env MYSQL_UNIX_PORT="$DIR/database/socket" slurmdbd -D
    await slurmdbd sacctmgr --noheader list cluster
    sacctmgr --noheader list cluster format=cluster | grep -qw brainlab || sacctmgr --immediate add cluster brainlab >/dev/null
  fi
}

up() {
  [ "$(id -u)" = 0 ] || fail 2 "needs root"
  require slurmctld slurmd sbatch munged
  [ "$ACCOUNTING" = 0 ] || require slurmdbd sacctmgr mariadbd mariadb-install-db
  if is_up && [ "$(cat "$DIR/settings")" = "$(settings)" ]; then return 0; fi
  local start
  start=$(($(cat "$DIR/starts" 2>/dev/null || echo 0) + 1))
  trap '[ $? = 0 ] || { tell "not started; the ends of the logs:"; tail -n 8 "$DIR"/log/* >&2; down; }' EXIT
  cancel_all
  halt slurmd slurmctld
  rm -rf "$DIR/state"
  mkdir -p "$DIR"/{daemons,log,munge,etc,state/controller,state/node}
  chmod 755 "$DIR" "$DIR/munge"
  echo "$start" >"$DIR/starts"
  [ -s "$DIR/port" ] || choose_ports
  settings >"$DIR/settings"
  # No job id appears twice in the accounting, whose database outlives a restart.
  write_configuration $((start * 10000 + 1))
  if ! alive munged >/dev/null; then
    [ -s "$DIR/munge/key" ] || (umask 077; head -c 1024 /dev/urandom >"$DIR/munge/key")
    launch munged munged --foreground --force --key-file="$DIR/munge/key" --socket="$DIR/munge/socket" \
      --pid-file="$DIR/munge/pid" --seed-file="$DIR/munge/seed" --log-file="$DIR/munge/log"
    await munged authenticates
  fi
  [ "$ACCOUNTING" = 0 ] || start_accounting
  launch slurmctld slurmctld -D
  await slurmctld scontrol ping
  launch slurmd slurmd -D
  await slurmd accepts_jobs
  trap - EXIT
}

down() {
  trap - EXIT
  cancel_all
  halt slurmd slurmctld slurmdbd database munged
  rm -rf "$DIR"
}

status() {
  local daemon
  is_up || { echo "down"; return 3; }
  cat "$DIR/settings"
  for daemon in "$DIR"/daemons/*; do echo "$(basename "$daemon") $(alive "$(basename "$daemon")" || echo ended)"; done
  sinfo
  squeue
}

alone() {  # one start or stop at a time
  exec 9>"/run/lock/$(basename "$DIR").lock"
  flock -w 300 9 || fail 1 "another start or stop does not end"
  "$@"
}

case ${1:-} in
  up) alone up ;;
  down) alone down ;;
  status) status ;;
  env) echo "export SLURM_CONF=$SLURM_CONF" ;;
  *) fail 2 "expected up, down, status or env" ;;
esac
