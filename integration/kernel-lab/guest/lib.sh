# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What tests in the guest share. VF1 to VF4 can migrate, VF5 cannot.

PF=$(cat /tmp/pf)
vf() { readlink -f "/sys/bus/pci/devices/$PF/virtfn$(($1 - 1))"; }
skip() { echo "skipped: $*"; exit 77; }
faults() { echo "$2" >"/sys/kernel/debug/xe-lab/vf$1/fault"; }

# The suite on VF1 and VF3 at once, each with a peer of its own.
conformance_in_halves() {
  conformance --device "$(vf 1)" --peer "$(vf 2)" --plain "$(vf 5)" --faults debugfs --part 1/2 "$@" &
  local first=$!
  conformance --device "$(vf 3)" --peer "$(vf 4)" --plain "$(vf 5)" --faults debugfs --part 2/2 "$@"
  local second=$?
  wait $first && [ $second = 0 ]
}
