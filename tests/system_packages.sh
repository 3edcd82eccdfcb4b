#!/usr/bin/env bash
# Installs Debian packages that tests need and this machine lacks. Without root, or without apt-get, it says what is
# missing and succeeds: the tests that need them are then skipped, each with its reason.
#   system_packages.sh PACKAGE...
set -euo pipefail
missing=()
for package in "$@"; do
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed: ${missing[*]} (needs root and apt-get); the tests that use them are skipped" >&2
  exit 0
fi
echo "installing ${missing[*]} ..." >&2
apt-get update -qq
# No daemon of these is to start by itself: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
