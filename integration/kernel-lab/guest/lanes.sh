# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Runs the tests of a stage beside each other: most of a test's time is waiting, an FLR alone takes 0.1 s.
#
# A lane has two VFs of its own, $A and $B, and takes one test after the other. What a test sets, it sets for its own VFs; what all
# VFs share is the stage's, by its `setup` before the VFs come up. A test's line `# parts: N` has it run in N parts, with $PART
# as K/N, and `# seconds: N` has the long ones begin first.

LANES="1:2 3:4 6:7"

uptime_s() { cut -d' ' -f1 /proc/uptime; }

tests_of() {
  local test
  for test in "$1"/*; do
    case $(basename "$test") in
      setup) ;;
      "${ONLY:-*}") echo "$test" ;;
      *) [ -n "$ONLY" ] || echo "$test" ;;
    esac
  done
}

has_work() { [ -n "$(tests_of "$1")" ]; }

# Lines "TEST K/N", the longest first.
jobs_of() {
  local test part parts seconds
  tests_of "$1" | while read -r test; do
    parts=$(sed -n 's/^# parts: //p' "$test")
    seconds=$(sed -n 's/^# seconds: //p' "$test")
    part=1
    while [ $part -le "${parts:-1}" ]; do
      echo "${seconds:-0} $test $part/${parts:-1}"
      part=$((part + 1))
    done
  done | sort -rn | cut -d' ' -f2-
}

# run_test LANE TEST PART
run_test() {
  local name=$(basename "$2") began=$(cut -d. -f1 /proc/uptime) took result
  [ "$3" = 1/1 ] || name="$name:$3"
  {
    # A subshell, so that no test ends the others.
    (
      A=${1%:*} B=${1#*:} PART=$3 TEST=$(basename "$2")
      . /lib/lib.sh
      for n in $A $B; do as_ever $n; done
      . "$2"
    ) 2>&1 </dev/null
    echo $? >"/tmp/status-$1"
  } | awk -v lane="$1| " '{ print lane $0; fflush() }'
  case $(cat "/tmp/status-$1") in
    0) result=ok ;;
    77) result=skipped ;;
    *) result=failed; touch /tmp/failed ;;
  esac
  took=$(($(cut -d. -f1 /proc/uptime) - began))
  echo "LAB test $name $result, $took s, until $(uptime_s)"
}

run_lane() {
  local test part
  # Taking a job is making its directory.
  while read -r test part; do
    [ ! -e /tmp/failed ] || [ "$KEEP_GOING" = 1 ] || return
    mkdir "/tmp/taken/$(basename "$test")-${part%/*}" 2>/dev/null || continue
    run_test "$1" "$test" "$part"
  done </tmp/jobs
}

run_stage() {
  local lane lanes=
  rm -rf /tmp/taken
  mkdir /tmp/taken
  jobs_of "$1" >/tmp/jobs
  for lane in $LANES; do
    run_lane "$lane" &
    lanes="$lanes $!"
  done
  wait $lanes
}
