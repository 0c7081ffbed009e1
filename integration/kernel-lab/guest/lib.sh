# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What tests in the guest share. VF1 to VF4 can migrate, VF5 cannot.

PF=$(basename "$(dirname /sys/bus/pci/devices/*/sriov_totalvfs)")
vf() { readlink -f "/sys/bus/pci/devices/$PF/virtfn$(($1 - 1))"; }
skip() { echo "skipped: $*"; exit 77; }
faults() { echo "$2" >"/sys/kernel/debug/xe-lab/vf$1/fault"; }

vfs_up() {
  local n
  echo 5 >"/sys/bus/pci/devices/$PF/sriov_numvfs" || return
  for n in 1 2 3 4 5; do
    # VF5: a platform that is not supported.
    if [ $n = 5 ]; then echo N; else echo Y; fi >/sys/module/xe/parameters/migration
    echo xe-vfio-pci >"$(vf $n)/driver_override"
    basename "$(vf $n)" >/sys/bus/pci/drivers_probe
    [ -e "$(vf $n)/driver" ] || return
  done
}

vfs_down() { echo 0 >"/sys/bus/pci/devices/$PF/sriov_numvfs"; }

# The suite on VF1 and VF3 at once, each with a peer of its own.
conformance_in_halves() {
  conformance --device "$(vf 1)" --peer "$(vf 2)" --plain "$(vf 5)" --faults debugfs --part 1/2 "$@" &
  local first=$!
  conformance --device "$(vf 3)" --peer "$(vf 4)" --plain "$(vf 5)" --faults debugfs --part 2/2 "$@"
  local second=$?
  wait $first && [ $second = 0 ]
}
