# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What the tests of the reference VMM share, after crate.sh. A VMM has a name: its files are NAME.* in $WORK.

pid() { cat "$1.pid"; }

# vmm NAME VF ARGUMENT...: starts one with this VF and waits until it answers, which a receiver does when it listens.
vmm() {
  local name=$1 number=$2
  shift 2
  rm -f "$name.serial" "$name.events"
  ref-vmm --api-socket "$WORK/$name.socket" --accel kvm --device "path=$(vf "$number"),id=vf0" --serial "file=$WORK/$name.serial" \
    --event-file "$WORK/$name.events" "$@" >"$name.log" 2>&1 </dev/null &
  echo $! >"$name.pid"
  STARTED="$STARTED $!"
  until_true 60 "an answer of $name" vmm_answers "$name"
  note "$name runs: $*"
}

vmm_answers() {
  ! gone "$(pid "$1")" || { cat "$1.log"; wrong "$1 has ended"; }
  [ -S "$WORK/$1.socket" ] && ref-vmm remote --api-socket "$WORK/$1.socket" ping >/dev/null 2>&1
}

remote() {
  local name=$1
  shift
  ends 0 ref-vmm remote --api-socket "$WORK/$name.socket" "$@"
}

# The last but one that it has reported: the last may still be without its last digits.
rounds() { sed -n 's/^vf0 jobs //p' "$1.serial" 2>/dev/null | tail -n 2 | head -n 1; }
hears_guest() { until_true 60 "the guest's line $2" grep -qF -- "$2" "$1.serial"; }
more_rounds() {
  ! grep -q FAIL "$1.serial" || wrong "the guest has found: $(grep FAIL "$1.serial")"
  [ "$(rounds "$1")" -gt "$2" ] 2>/dev/null
}

# The guest does three reports' worth of rounds without a complaint.
works() {
  local before=0
  before=$(rounds "$1")
  until_true 90 "rounds of the guest in $1 after ${before:-0}" more_rounds "$1" $((${before:-0} + 3000))
  note "the guest in $1 works: round $(rounds "$1")"
}

# stays NAME VF: the guest has its VF, with what it held.
stays() {
  works "$1"
  holds "$2" content
}

# Where a receiver listens.
address() { sed -n 's/.*"url":"\([^"]*\)".*/\1/p' "$1.events" | head -n 1; }

# begin_move FROM TO
begin_move() {
  start ref-vmm remote --api-socket "$WORK/$1.socket" send-migration "$(address "$2")"
}

# moves STATUS FROM TO
moves() {
  begin_move "$2" "$3"
  ended "$1"
}

gone() { ! [ -d "/proc/$1" ] || grep -q '^State:.*zombie' "/proc/$1/status"; }

# A VMM that has handed its guest over or was shut down ends by itself, with status 0.
left() {
  until_true 30 "the end of $1" gone "$(pid "$1")"
  wait "$(pid "$1")" || wrong "$1 ended with $?"
}
