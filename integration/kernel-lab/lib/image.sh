# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The initramfs: busybox, kernel modules, the test programs, and guest/.

make_image() {
  local tree=$CACHE/image
  rm -rf "$tree"
  mkdir -p "$tree"/{bin,lib,proc,sys,dev,tmp}
  cp "$ROOT/usr/bin/busybox" "$tree/bin/"
  cp "$LAB/guest/init" "$tree/init"
  cp -r "$LAB/guest/stages" "$tree/"
  cp "$LAB"/guest/*.sh "$tree/lib/"
  cp "$CACHE"/build/{xe,xe-vfio-pci}.ko "$tree/lib/"
  for module in "${MODULES[@]}"; do
    for file in "$ROOT/usr/lib/modules/$(kernel_version)/kernel/$module".ko*; do
      case $file in
        *.xz) xz -dc "$file" >"$tree/lib/$(basename "$module").ko" ;;
        *.ko) cp "$file" "$tree/lib/" ;;
      esac
    done
    # Load order; what is missing is built in.
    [ -e "$tree/lib/$(basename "$module").ko" ] && basename "$module"
  done >"$tree/lib/order" || true
  for binary in "${BINARIES[@]}"; do cp "$PROGRAMS/$binary" "$tree/bin/"; done
  [ -z "$CLOUD_HYPERVISOR" ] || add_cloud_hypervisor "$tree"
  chmod -R u+rwX,+x "$tree"/{init,bin}
  (cd "$tree" && find . | busybox_cpio >"$CACHE/initramfs")
}

# Cloud Hypervisor's two programs and the libraries that they run with on this machine: a filter is made for those.
add_cloud_hypervisor() {
  local tree=$1 library libraries
  cp -L "$CLOUD_HYPERVISOR"/{cloud-hypervisor,ch-remote} "$tree/bin/"
  libraries=$(ldd "$CLOUD_HYPERVISOR"/{cloud-hypervisor,ch-remote} 2>/dev/null || true)
  ! grep 'not found' <<<"$libraries" || fail "Cloud Hypervisor needs libraries that this machine does not have"
  # Each at its own path, the loader among them; a static program has none.
  { grep -o '/[^ :]* (0x' <<<"$libraries" || true; } | sed 's/ (0x//' | sort -u | while read -r library; do
    mkdir -p "$tree$(dirname "$library")"
    cp -L "$library" "$tree$library"
  done
}

# Uncompressed: packing would take longer than the kernel saves.
busybox_cpio() { "$ROOT/usr/bin/busybox" cpio -o -H newc 2>/dev/null; }
