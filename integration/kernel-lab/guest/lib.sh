# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What tests in the guest share. All VFs can migrate but VF5; VF8 has less VRAM than the others.

PF=$(basename "$(dirname /sys/bus/pci/devices/*/sriov_totalvfs)")
DEBUG=/sys/kernel/debug/xe-lab
PLAIN=5
SMALL=8
vf() { readlink -f "/sys/bus/pci/devices/$PF/virtfn$(($1 - 1))"; }
# In a test, whose name is $TEST.
skip() { echo "skipped: $TEST: $*"; exit 77; }
faults() { echo "$2" >"$DEBUG/vf$1/fault"; }
# The largest VRAM packet of a VF's saves.
chunks() { echo "$2" >"$DEBUG/vf$1/vram_chunk_kib"; }
# As the provider makes a VF.
as_ever() {
  faults "$1" clear
  chunks "$1" $((512 << 10))
}

# vfs_up COUNT
vfs_up() {
  local n=0
  echo "$1" >"/sys/bus/pci/devices/$PF/sriov_numvfs" || return
  while [ $n -lt "$1" ]; do
    n=$((n + 1))
    # A platform that is not supported.
    if [ $n = $PLAIN ]; then echo N; else echo Y; fi >/sys/module/xe/parameters/migration
    echo xe-vfio-pci >"$(vf $n)/driver_override"
    basename "$(vf $n)" >/sys/bus/pci/drivers_probe
    [ -e "$(vf $n)/driver" ] || return
  done
}

vfs_down() { echo 0 >"/sys/bus/pci/devices/$PF/sriov_numvfs"; }

# The suite's behaviours, or those of this part, on this lane's VFs. VF5 is no lane's: see the test `unsupported`.
conformance_here() {
  conformance --device "$(vf $A)" --peer "$(vf $B)" --faults debugfs --part "$PART" "$@"
}
