# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Paths and ways to end. Sourced by `run`.

LAB=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
WORKSPACE=$(cd "$LAB/../.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/xe-vfio-device/lab
ROOT=$CACHE/root
LOGS=$CACHE/logs

step() { printf '== %s (%ss)\n' "$*" "$SECONDS"; }

fail() { printf 'kernel-lab: %s\n' "$*" >&2; exit 1; }

# What the machine lacks is no fault of the code under test: one line, and a status of its own.
skip() { printf 'skipped: kernel-lab: %s\n' "$*"; exit 77; }

# logged NAME COMMAND...: the command's output goes to a log, which is shown when it fails.
logged() {
  local log=$LOGS/$1.log
  shift
  "$@" >"$log" 2>&1 || { local status=$?; tail -n 40 "$log" >&2; return "$status"; }
}

# in_root COMMAND...: runs a command of the lab's own Debian tree, with the machine's /proc and /dev, as root of a namespace.
in_root() {
  local map=()
  [ "$(id -u)" = 0 ] || map=(--map-root-user)
  unshare "${map[@]}" --mount bash -c '
    set -e
    root=$1; shift
    mkdir -p "$root/proc" "$root/dev" "$root/lab"
    mount --rbind /proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --bind "$LAB_CACHE" "$root/lab"
    exec chroot "$root" /usr/bin/env -i PATH=/usr/bin:/usr/sbin HOME=/ "$@"' - "$ROOT" "$@"
}
export LAB_CACHE=$CACHE
