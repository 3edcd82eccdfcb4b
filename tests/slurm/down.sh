#!/usr/bin/env bash
# Stop what up.sh started in FOLDER, and nothing else, by its pid files.
folder=$(realpath -m "$1")
export SLURM_CONF=$folder/slurm.conf
[ -s "$folder/run/slurmctld.pid" ] && scancel -u "$(id -un)" 2>/dev/null && sleep 1
for daemon in slurmd slurmctld munged; do
  file=$folder/run/$daemon.pid
  [ -s "$file" ] || continue
  pid=$(cat "$file")
  if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$daemon" ]; then
    kill "$pid"
    for _ in $(seq 1 100); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -0 "$pid" 2>/dev/null && kill -9 "$pid"
  fi
  rm -f "$file"
done
exit 0
