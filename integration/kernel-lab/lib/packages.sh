# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The lab's own Debian tree: packages of suite sid, by name, from the archive that this machine's apt uses.
#
# Nothing is installed on the machine and no maintainer script runs: packages are unpacked into $ROOT. apt has its own state there.

SUITE=sid
TOOLS=(base-files bash dash coreutils sed grep gawk findutils make gcc libc6-dev xz-utils kmod cpio busybox-static qemu-system-x86)
KERNEL_FILES=(drivers/vfio/pci/xe/main.c include/drm/intel/xe_sriov_vfio.h include/drm/intel/pciids.h)
MODULES=(virt/lib/irqbypass drivers/vfio/vfio drivers/vfio/vfio_iommu_type1 drivers/vfio/pci/vfio-pci-core
  arch/x86/kvm/kvm drivers/crypto/ccp/ccp arch/x86/kvm/kvm-amd)

lab_apt() {
  local command=$1
  shift
  "$command" -qq \
    -o Dir::State="$CACHE/apt" -o Dir::State::Lists="$CACHE/apt/lists" -o Dir::State::status="$CACHE/apt/status" \
    -o Dir::Cache="$CACHE/apt/cache" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
    -o Dir::Etc::SourceList="$CACHE/apt/lab.sources" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
    -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false -o Acquire::Retries=2 -o APT::Update::Post-Invoke= -o APT::Update::Error-Mode=any \
    -o APT::Install-Recommends=false -o APT::Sandbox::User=root -o APT::Architecture=amd64 "$@"
}

# The machine's own Debian archive: whatever its sources call ".../debian".
archive_uri() {
  { cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list /etc/apt/sources.list 2>/dev/null || true; } |
    sed -nE -e 's/^URIs:[[:space:]]*//p' -e 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\2/p' |
    tr ' ' '\n' | sed -n '\|/debian/\{0,1\}$|{p;q}'
}

prepare_apt() {
  local uri keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  for tool in apt-get apt-cache dpkg-deb unshare; do
    command -v "$tool" >/dev/null || skip "needs $tool: the lab is made of Debian's packages"
  done
  [ -r "$keyring" ] || skip "needs $keyring to check Debian's packages"
  uri=$(archive_uri)
  [ -n "$uri" ] || skip "apt's sources on this machine name no Debian archive"
  mkdir -p "$CACHE/apt/lists/partial" "$CACHE/apt/cache/archives/partial"
  : >"$CACHE/apt/status"
  printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$uri" "$SUITE" "$keyring" >"$CACHE/apt/lab.sources"
  logged apt-update lab_apt apt-get update || skip "Debian's $SUITE cannot be reached through this machine's apt (see $LOGS/apt-update.log)"
}

depends_of() { lab_apt apt-cache depends "$1" | sed -nE "s/^ *Depends: ($2)\$/\1/p" | sed 1q; }

# Names of the newest kernel's packages; which packages it is split into has changed before.
kernel_packages() {
  local image source part
  image=$(depends_of linux-image-amd64 'linux-image-.*-amd64')
  source=$(depends_of linux-source 'linux-source-.*')
  [ -n "$image" ] && [ -n "$source" ] || fail "Debian's $SUITE has no linux-image-amd64 or linux-source"
  printf '%s\n' "linux-headers-${image#linux-image-}" "$source"
  part=$(lab_apt apt-cache depends "$image" | sed -nE 's/^ *Depends: (linux-(binary|modules)-.*)$/\1/p')
  printf '%s\n' "${part:-$image}"
}

# unpack_only DEB PATTERN...: just these files, into $ROOT.
unpack_only() {
  local deb=$1
  shift
  dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$ROOT.new" --no-same-owner --wildcards "$@"
}

unpack() {
  local deb patterns=()
  for module in "${MODULES[@]}"; do patterns+=("*/kernel/$module.ko*"); done
  case $(basename "$1") in
    base-files_*) ;; # first, for the links of the merged /usr
    linux-source-*)
      dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards '*/linux-source-*.tar.xz' | xz -dc -T0 |
        tar -x -C "$CACHE/kernel.new" --no-same-owner --strip-components 1 --wildcards "${KERNEL_FILES[@]/#/*/}" ;;
    # A module may be built in by now: then it is not in the package.
    linux-modules-*) unpack_only "$1" "${patterns[@]}" 2>/dev/null || true ;;
    linux-image-*) unpack_only "$1" "${patterns[@]}" '*/vmlinuz*' '*/modules.builtin' 2>/dev/null || true ;;
    systemd_* | libsystemd-shared_* | *-doc_* | pahole_*) ;;
    *) dpkg-deb -x "$1" "$ROOT.new" ;;
  esac
}

fetch_packages() {
  local deb packages
  [ -e "$ROOT/.complete" ] && return
  mkdir -p "$CACHE" "$LOGS"
  step "Debian $SUITE: what there is"
  prepare_apt
  mapfile -t packages < <(kernel_packages)
  step "fetching ${packages[*]} ${TOOLS[*]}"
  logged apt-install lab_apt apt-get install --yes --download-only "${packages[@]}" "${TOOLS[@]}" ||
    skip "the packages cannot be fetched (see $LOGS/apt-install.log)"
  step "unpacking"
  rm -rf "$ROOT" "$ROOT.new" "$CACHE/kernel" "$CACHE/kernel.new"
  mkdir -p "$ROOT.new" "$CACHE/kernel.new"
  dpkg-deb -x "$CACHE"/apt/cache/archives/base-files_*.deb "$ROOT.new"
  for deb in "$CACHE"/apt/cache/archives/*.deb; do unpack "$deb"; done
  for file in "${KERNEL_FILES[@]}"; do [ -s "$CACHE/kernel.new/$file" ] || fail "the kernel's source has no $file"; done
  ln -sf gawk "$ROOT.new/usr/bin/awk"
  rm -f "$CACHE"/apt/cache/archives/*.deb
  mv "$CACHE/kernel.new" "$CACHE/kernel"
  mv "$ROOT.new" "$ROOT"
  : >"$ROOT/.complete"
}
