# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What tests in the guest share. VF1 and VF2 can migrate, VF3 cannot.

PF=$(cat /tmp/pf)
vf() { readlink -f "/sys/bus/pci/devices/$PF/virtfn$(($1 - 1))"; }
skip() { echo "skipped: $*"; exit 77; }
faults() { echo "$2" >"/sys/kernel/debug/xe-lab/vf$1/fault"; }
