# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The kernel modules, out of tree against Debian's headers, and the static test programs.

kernel_version() { basename "$(dirname "$(ls -d "$ROOT"/usr/src/linux-headers-*-amd64/Module.symvers)")" | sed 's/^linux-headers-//'; }

build_modules() {
  local build=$CACHE/build stamp
  stamp=$(cat "$LAB"/provider/* "$CACHE/kernel/drivers/vfio/pci/xe/main.c" | sha256sum)
  [ "$(cat "$build/.stamp" 2>/dev/null)" = "$stamp" ] && return
  step "building the kernel's xe-vfio-pci and the provider for $(kernel_version)"
  rm -rf "$build"
  mkdir -p "$build"
  cp "$LAB"/provider/* "$CACHE/kernel/drivers/vfio/pci/xe/main.c" "$build"
  cp -r "$CACHE/kernel/include" "$build/include"
  logged modules in_root make -C "/usr/src/linux-headers-$(kernel_version)" M=/lab/build -j2 KCFLAGS=-Werror CONFIG_DEBUG_INFO_BTF_MODULES= modules ||
    fail "the kernel modules do not build"
  printf '%s\n' "$stamp" >"$build/.stamp"
}

TARGET=x86_64-unknown-linux-gnu
BINARIES=(conformance xe-vfio ref-vmm guest)
# Their packages.
PACKAGES=(conformance xe-vfio-device ref-vmm guest)

build_programs() {
  local arguments=()
  step "building ${BINARIES[*]}, static"
  arguments=("${PACKAGES[@]/#/--package=}" "${BINARIES[@]/#/--bin=}")
  (cd "$WORKSPACE" && RUSTFLAGS="-C target-feature=+crt-static" cargo build --quiet --locked --release --target "$TARGET" "${arguments[@]}") ||
    fail "the test programs do not build"
  PROGRAMS=${CARGO_TARGET_DIR:-$WORKSPACE/target}/$TARGET/release
}
