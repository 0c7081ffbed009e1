# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# QEMU, and what its serial console tells.
#
# The guest prints `LAB test NAME ok|failed|skipped ...`, and `LAB done` at its end; anything short of that is a failure.

BOOT_SECONDS=${LAB_BOOT_SECONDS:-480}

# Without ERMS and FSRM the kernel copies by words: QEMU takes as long for a byte of `rep movsb` as for a word.
CPU=max,-erms,-fsrm

# The lab's own QEMU, with the machine's loader left out.
QEMU=("$ROOT/usr/lib64/ld-linux-x86-64.so.2" --library-path "$ROOT/usr/lib/x86_64-linux-gnu" "$ROOT/usr/bin/qemu-system-x86_64"
  -L "$ROOT/usr/share/qemu" -L "$ROOT/usr/share/seabios" -L "$ROOT/usr/lib/ipxe/qemu")

pf_device() {
  if [ "$1" = nvme ]; then
    printf '%s\n' -device nvme-subsys,id=s0 -device \
      nvme,serial=a,subsys=s0,bus=rp0,sriov_max_vfs=8,sriov_vq_flexible=16,sriov_vi_flexible=8,max_ioqpairs=18,msix_qsize=17
  else
    printf '%s\n' -netdev user,id=n0,restrict=on -device igb,bus=rp0,netdev=n0,romfile=
  fi
}

# `no_timer_check`: on a machine under load the timer is found late, which the kernel takes for a broken one.
boot() {
  local console=$LOGS/console.log vmlinuz pf
  vmlinuz=$(find "$ROOT/usr/lib/modules" "$ROOT/boot" -maxdepth 2 -name 'vmlinuz*' -print -quit)
  [ -n "$vmlinuz" ] || fail "there is no kernel image among the packages"
  mapfile -t pf < <(pf_device "$PF")
  step "booting $(kernel_version) in QEMU ($PF)"
  local arguments=(-machine q35,kernel-irqchip=split -accel tcg,thread=multi -cpu "$CPU" -smp 2 -m 2G -nodefaults -no-user-config
    -display none -no-reboot -device intel-iommu,intremap=on,caching-mode=on -device pcie-root-port,id=rp0,chassis=1,slot=1
    "${pf[@]}" -kernel "$vmlinuz" -initrd "$CACHE/initramfs"
    -append "console=ttyS0 quiet loglevel=4 no_timer_check intel_iommu=on panic=-1 oops=panic hung_task_panic=1 lab.test=$ONLY lab.keep=$KEEP_GOING lab.shell=$SHELL_WANTED")
  if [ "$SHELL_WANTED" = 1 ]; then
    "${QEMU[@]}" -serial mon:stdio "${arguments[@]}"
    return
  fi
  local status=0
  TIMEFORMAT='== QEMU: %R s, processors %U s user and %S s system'
  time timeout --kill-after=5 "$BOOT_SECONDS" "${QEMU[@]}" -serial stdio "${arguments[@]}" </dev/null 2>"$LOGS/qemu.log" | sed -u "s,\r$,," | tee "$console" || status=${PIPESTATUS[0]}
  report "$console" "$status"
}

report() {
  local console=$1 status=$2 passed failed skipped
  passed=$(grep -c '^LAB test .* ok' "$console" || true)
  failed=$(grep -c '^LAB test .* failed' "$console" || true)
  skipped=$(grep -c '^LAB test .* skipped' "$console" || true)
  [ "$status" != 124 ] && [ "$status" != 137 ] || fail "no end within ${BOOT_SECONDS} s: the last lines are in $console"
  ! grep -E 'Kernel panic|BUG:|Oops|WARNING: |Call Trace' "$console" || fail "the kernel complained: see $console"
  grep -q '^LAB done' "$console" || { tail -n 5 "$LOGS/qemu.log" >&2; fail "the guest did not come to its end (status $status): see $console"; }
  # The parts of the table, and those of its behaviours that ran again with small packets or two GTs.
  awk '$2 == "conformance:" { passed += $3; failed += $5; skipped += $7 }
    END { if (passed + failed) printf "conformance: %d passed, %d failed, %d skipped, in all runs\n", passed, failed, skipped }' "$console"
  step "kernel-lab: $passed passed, $failed failed, $skipped skipped"
  [ "$failed" = 0 ] || fail "$failed tests failed"
  [ "$passed" -gt 0 ] || [ "$skipped" = 0 ] || skip "no test of this name could run"
  [ "$passed" -gt 0 ] || fail "no test ran"
}
