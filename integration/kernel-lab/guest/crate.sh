# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What the tests of the crate's own command share: `. /lib/crate.sh` after lib.sh. Nothing here hides a wrong result: each ends the test.
# They use the lane's two VFs, $A and $B, and a directory of their own.
#
# A VF is clean when the command has opened it, so content is put in through debugfs while the provider keeps the command in its
# first transition. The FLR of closing a VF is none that the kernel tells its drivers of (__pci_reset_function_locked), so the provider
# does not see it, and what a VF held at the command's end can still be read here; a reset that the command asked for is seen.

WORK=/tmp/lane-$A
# Bytes of VRAM: init's vram_mib.
VRAM=2097152
rm -rf $WORK
mkdir $WORK
cd $WORK || exit 1

wrong() {
  echo "WRONG: $*"
  faults $A clear
  faults $B clear
  # What is still there would keep the VFs.
  kill -9 $STARTED 2>/dev/null
  exit 1
}

note() { echo "  [$(cut -d' ' -f1 /proc/uptime)] $*"; }

# VRAM of random bytes, into a VF and compared with one.
fill() { cat "$2" >$DEBUG/vf$1/vram; }
holds() { cmp "$2" $DEBUG/vf$1/vram || wrong "VF$1 does not hold $2"; }
head -c $VRAM /dev/urandom >content

# until SECONDS WHAT COMMAND...: polls, since neither a kernel's wait nor another process's line can be waited for here.
until_true() {
  local tries=$(($1 * 20)) what=$2
  shift 2
  until "$@"; do
    [ $tries -gt 0 ] || wrong "never came: $what"
    tries=$((tries - 1))
    usleep 50000
  done
}

# Busybox's timeout becomes the command, so RUNNING is the command's own id.
STARTED=
start() {
  timeout -s KILL 90 "$@" >out 2>&1 </dev/null &
  RUNNING=$!
  STARTED="$STARTED $RUNNING"
}
second() {
  timeout -s KILL 90 "$@" >out2 2>&1 </dev/null
  status_is $? out2 "$@"
}

# ended STATUS: the started command ends with it.
ended() {
  wait "$RUNNING"
  local status=$?
  RUNNING=
  WANTED=$1
  status_is $status out "the started command"
}

# ends STATUS COMMAND...
ends() {
  WANTED=$1
  shift
  timeout -s KILL 90 "$@" >out 2>&1 </dev/null
  status_is $? out "$@"
}

status_is() {
  local status=$1 file=$2
  shift 2
  note "$*: $status"
  sed 's/^/  | /' $file
  [ "$status" = "$WANTED" ] || wrong "exit status $status, not $WANTED"
}

# says TEXT...: the last command's output has each.
says() {
  local text
  for text in "$@"; do grep -qF -- "$text" out || wrong "not said: $text"; done
}

# The started command waits in a function of the provider.
in_call() { waits_in "$RUNNING" "$1"; }
waits_in() { until_true 30 "a wait in $2" stacks_have "$1" "$2"; }
stacks_have() { cat /proc/$1/task/*/stack 2>/dev/null | grep -q "$2"; }
hears() { until_true 30 "the line $1" grep -qF -- "$1" out; }
signal() { kill "-$1" "$RUNNING" || wrong "the command is gone"; }

# begin_save VF FILE: a save that waits in its first transition, with content in its VF. `faults` sets off the next fault first.
begin_save() {
  faults "$1" "suspend stuck"
  start xe-vfio save "$(vf "$1")" --to "$2"
  in_call lab_suspend
  fill "$1" content
}
let_go() { faults "$1" "$2 delay-ms 1"; }

# save VF FILE: the state with content in it.
save() {
  begin_save "$1" "$2"
  faults "$1" clear
  ended 0
  says "with the state it had"
}

# A number of a file, little-endian: FILE OFFSET BYTES.
number() { od -A n -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '; }

# The device state in a stream's file, as docs/stream-format.md has it.
payload() {
  local at=$((56 + $(number "$1" 20 4))) length
  while :; do
    length=$(number "$1" $((at + 4)) 4)
    case $(number "$1" $at 2) in
      1) piece "$1" $((at + 24)) "$length" ;;
      4) sparse "$1" $((at + 24)) "$length" ;;
      *) break ;;
    esac
    at=$((at + 24 + length))
  done
}
piece() { tail -c +$(($2 + 1)) "$1" | head -c "$3"; }
# sparse FILE OFFSET LENGTH: the payload of a sparse frame with its zeros put in.
sparse() {
  local at=$2 end=$(($2 + $3)) runs run bytes
  runs=$(number "$1" $((end - 8)) 4)
  run=$((end - 8 - 8 * runs))
  while [ $run -lt $((end - 8)) ]; do
    bytes=$(number "$1" $((run + 4)) 4)
    head -c "$(number "$1" $run 4)" /dev/zero
    piece "$1" $at "$bytes"
    at=$((at + bytes))
    run=$((run + 8))
  done
}

# Two files have the same state, and more than nothing.
same() {
  # Equal files need not be taken apart.
  if [ "$(stat -c %s "$1")" -gt $VRAM ] && cmp -s "$1" "$2"; then
    note "$1 and $2: the same file of $(stat -c %s "$1") bytes"
    return
  fi
  payload "$1" >first
  payload "$2" >second
  [ "$(stat -c %s first)" -gt $VRAM ] || wrong "$1 has less state than VRAM"
  cmp first second || wrong "$1 and $2 differ"
  note "$1 and $2: the same $(stat -c %s first) bytes of state"
}

# Packets that a save has more of than the ring holds.
small_packets() {
  chunks $A 128
  chunks $B 128
}

# round_trip FROM: a good load and save of it on both VFs, after whatever was before.
round_trip() {
  local n
  for n in $A $B; do
    ends 0 xe-vfio restore "$(vf $n)" --from "$1" --then-save again
    says "with the state that came"
    same "$1" again
  done
}
