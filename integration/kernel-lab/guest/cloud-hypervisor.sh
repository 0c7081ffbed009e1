# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What the tests of Cloud Hypervisor share, after crate.sh and vmm.sh. A VMM has a name: its files are NAME.* in $WORK. The guest's
# serial port is a pipe, since Cloud Hypervisor truncates a file when the destination opens it; what comes out of it is vm.serial.

[ -x /bin/cloud-hypervisor ] || skip "CLOUD_HYPERVISOR is not set to a directory with cloud-hypervisor and ch-remote"

mkfifo serial
# Open for both, so that it never comes to its end.
cat <>serial >vm.serial 2>/dev/null &
SERIAL=$!
STARTED="$STARTED $SERIAL"
guest guest.elf || wrong "no guest program"

# ch NAME ARGUMENT...: starts one and waits for its API. Its seccomp filters are on, as they are unless they are switched off.
ch() {
  local name=$1
  shift
  cloud-hypervisor -v --log-file "$name.log" --event-monitor "path=$WORK/$name.events" --api-socket "path=$WORK/$name.socket" "$@" \
    >"$name.out" 2>&1 </dev/null &
  echo $! >"$name.pid"
  STARTED="$STARTED $!"
  until_true 60 "an answer of $name" ch_answers "$name"
  note "$name runs: $*"
}

ch_answers() {
  ! gone "$(pid "$1")" || ch_wrong "$1 has ended"
  [ -S "$1.socket" ] && timeout -s KILL 20 ch-remote --api-socket "$1.socket" ping >/dev/null 2>&1
}

# ch_wrong TEXT: with the last words of all VMMs.
ch_wrong() {
  local log
  for log in *.log; do
    echo "$log:"
    tail -n 15 "$log" "${log%.log}.out" | cut -c 1-600
  done
  wrong "$1"
}

ch_remote() {
  local name=$1
  shift
  ends 0 ch-remote --api-socket "$name.socket" "$@"
}

# A VM with VF $2.
ch_vm() {
  ch "$1" --kernel guest.elf --cpus boot=1 --memory size=32M --console off --serial "file=$WORK/serial" \
    --device "path=$(vf "$2"),id=vf0"
}

# The threads that run the guest and serve the VM have a filter (2 is SECCOMP_MODE_FILTER).
filtered() {
  local thread all=0 with=0 name
  for thread in /proc/$(pid "$1")/task/*; do
    name=$(cat "$thread/comm")
    all=$((all + 1))
    if grep -q '^Seccomp:[[:space:]]*2' "$thread/status"; then
      with=$((with + 1))
    else
      case $name in vcpu* | vmm*) wrong "thread $name of $1 has no seccomp filter" ;; esac
    fi
  done
  note "seccomp filters in $1: $with of $all threads"
  [ $with -gt 2 ] || wrong "too few"
}

# ch_receiver NAME VF: one that waits for the VM. It takes what the VM has by then, so each migration has its own port.
PORT=$((7000 + 100 * A))
ch_receiver() {
  PORT=$((PORT + 1))
  ch "$1"
  timeout -s KILL 180 ch-remote --api-socket "$1.socket" receive-migration \
    "receiver_url=tcp:127.0.0.1:$PORT,vfio_paths=[vf0@$(vf "$2")]" >"$1.answer" 2>&1 </dev/null &
  echo $! >"$1.receiving"
  STARTED="$STARTED $!"
  until_true 60 "the word of $1 that it listens" grep -qF migration-receive-ready "$1.events"
}

# ch_send FROM EVENT: it answers at once, the end is EVENT.
ch_send() {
  local before last
  before=$(ends_of "$1" | wc -l)
  ch_remote "$1" send-migration "destination_url=tcp:127.0.0.1:$PORT"
  until_true 180 "an end of the migration of $1" has_more_ends "$1" "$before"
  last=$(ends_of "$1" | tail -n 1)
  [ "$last" = "$2" ] || ch_wrong "the migration ended with ${last:-nothing}"
}
ends_of() { grep -oE 'migration-(finished|failed)' "$1.events"; }
has_more_ends() {
  # A VMM that a filter has killed says no more.
  [ "$(ends_of "$1" | wc -l)" -gt "$2" ] || gone "$(pid "$1")"
}

# received STATUS NAME: what the receiver has answered its client.
received() {
  local status
  wait "$(cat "$2.receiving")"
  status=$?
  sed 's/^/  | /' "$2.answer" | cut -c 1-600
  [ $status = "$1" ] || ch_wrong "receive-migration ended with $status, not $1"
}

# logs NAME TEXT...: what it has logged has each.
logs() {
  local name=$1 text
  shift
  for text in "$@"; do grep -qF -- "$text" "$name.log" || ch_wrong "not logged: $text"; done
}

# An end without complaint.
ch_ends() {
  timeout -s KILL 60 ch-remote --api-socket "$1.socket" shutdown-vmm >/dev/null 2>&1
  left "$1"
}

# At a test's end: the serial port's reader would go on for ever.
no_serial() { kill "$SERIAL"; }

# ch_figures NAME PATTERN: lines of its log.
ch_figures() {
  grep -E "$2" "$1.log" | sed 's/^/  | /' | cut -c 1-400
}
