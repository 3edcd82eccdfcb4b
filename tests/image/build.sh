#!/usr/bin/env bash
# Really builds the Dockerfile and runs what it made, without a container daemon: buildah in a chroot, on a Debian made by
# debootstrap in the place of the CUDA base. Needs root, a Debian mirror and a package index, some 10 GB and many minutes.
#   build.sh [FOLDER]; everything stays below FOLDER, which is removed at the end if it was made here
set -euo pipefail
checkout=$(cd "$(dirname "$0")/../.." && pwd)
if [ "$(id -u)" != 0 ] || ! command -v buildah >/dev/null || ! command -v debootstrap >/dev/null; then
  echo "skipped: building the image needs root, buildah and debootstrap (apt-get install buildah debootstrap)" >&2
  exit 0
fi
if [ -n "${1:-}" ]; then
  folder=$(realpath -m "$1")
else
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
fi
mkdir -p "$folder"
suite=${SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}
buildah() { command buildah --storage-driver vfs --root "$folder/storage" --runroot "$folder/run" "$@"; }

if ! buildah inspect --type image localhost/base >/dev/null 2>&1; then
  echo "making a base of Debian $suite ..." >&2
  debootstrap --variant=minbase "$suite" "$folder/base" >"$folder/debootstrap.log"
  # What tells apt of mirrors and certificates here holds in the build as well.
  cp -r /etc/apt/apt.conf.d/. "$folder/base/etc/apt/apt.conf.d/"
  empty=$(buildah from scratch)
  buildah add -q "$empty" "$folder/base" / >/dev/null
  buildah commit -q "$empty" localhost/base >/dev/null
  buildah rm "$empty" >/dev/null
  rm -rf "$folder/base"
fi

# Wherever pip finds packages on this machine, by its own configuration, it finds them in the build.
volumes=(--volume "$folder/pip.conf:/etc/pip.conf:ro")
python3 -m pip config list | sed -E "s/^[^=]*\\.([a-z-]+)='(.*)'$/\\1 = \\2/" | awk -F' = ' '!seen[$1]++' | sed '1i [global]' > "$folder/pip.conf"
# Not in its usual place: installing ca-certificates writes there.
authorities=$(sed -n 's/^cert = //p' "$folder/pip.conf")
if [ -n "$authorities" ]; then
  volumes+=(--volume "$authorities:/etc/pip-authorities.crt:ro")
  sed -i 's|^cert = .*|cert = /etc/pip-authorities.crt|' "$folder/pip.conf"
fi
for word in $(cut -d= -f2- "$folder/pip.conf"); do
  path=${word#file://}
  path=${path%/simple} # an index on disk: its files may lie beside its pages
  if [ -d "$path" ]; then volumes+=(--volume "$path:$path:ro"); fi
done

echo "building the image ..." >&2
buildah bud --isolation chroot --network host --build-arg BASE=localhost/base "${volumes[@]}" \
  --tag localhost/dlmbench --quiet "$checkout" >/dev/null

made=$(buildah from localhost/dlmbench)
inside() { buildah run --isolation chroot "$made" -- "$@"; }
[ "$(inside id -un)" = dlmbench ] || { echo "the image runs as $(inside id -un)" >&2; exit 1; }
inside dlmbench doctor
inside dlmbench list samplers
inside sh -c 'cd "$HOME" && dlmbench run --config /opt/dlmbench/config/experiments_tiny.yaml --output_dir raw_data --max_prompts 2 \
  --steps 8 --batch_size 1 --knob block_length=16'
inside sh -c 'test -s "$HOME/raw_data/raw_metrics.csv"'
echo "the image builds, runs as an ordinary user, and measures" >&2
