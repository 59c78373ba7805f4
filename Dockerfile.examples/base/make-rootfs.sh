#!/usr/bin/env bash
# Makes the root file system of a base image from this machine's own Debian mirror, so that the examples need no
# registry of other people's images.
#
#     make-rootfs.sh busybox|debian|node|python FILE.tar.xz
#
# What a RUN needs to reach the package registries (mirror, proxy, CA certificates, pip and npm registry) is copied from
# this machine into the image. So such an image is for this machine: do not publish it.
set -euo pipefail

kind=${1:?kind of base: busybox, debian, node or python}
output=$(realpath -m "${2:?file to write}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

need() {
    command -v "$1" >/dev/null || { echo "make-rootfs.sh needs $1 (Debian package $2)" >&2; exit 1; }
}

need xz xz-utils

busybox_rootfs() {
    need busybox busybox-static
    local root=$work/root
    mkdir -p "$root"/{bin,etc,root,tmp,usr,var}
    chmod 1777 "$root/tmp"
    chmod 0700 "$root/root"
    cp "$(command -v busybox)" "$root/bin/busybox"
    chmod 0755 "$root/bin/busybox"
    busybox --list | while read -r applet; do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'daemon:x:1:1:daemon:/:/bin/false' \
        'app:x:1000:1000:app:/home/app:/bin/sh' 'nobody:x:65534:65534:nobody:/:/bin/false' >"$root/etc/passwd"
    printf '%s\n' 'root:x:0:' 'daemon:x:1:' 'staff:x:50:app' 'app:x:1000:' 'nogroup:x:65534:' >"$root/etc/group"
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$root" -c . | xz -T0 -1 >"$output.part"
}

# The mirror that apt uses for Debian's main archive, and a name of a release it has.
debian_mirror() {
    # shellcheck disable=SC2016  # the words with $ are apt's
    apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        awk '$2 == "bookworm" && $3 == "main" { sub("/$", "", $1); print $1; exit }'
}

# What this machine's tools were told about their registries, as files for the image in $work/settings.
machine_settings() {
    local settings=$work/settings index registry
    mkdir -p "$settings"
    apt-config dump 2>/dev/null |
        grep -E '^Acquire::((https?|ftp)(::Proxy|::Proxy::.*)?|Retries|Check-Valid-Until|Check-Date) ' |
        grep -v '""' >"$settings/apt.conf" || true
    printf '%s\n' '[global]' 'cert = /etc/ssl/certs/ca-certificates.crt' 'disable-pip-version-check = true' >"$settings/pip.conf"
    index=${PIP_INDEX_URL:-$(pip3 config get global.index-url 2>/dev/null || true)}
    [ -z "$index" ] || echo "index-url = $index" >>"$settings/pip.conf"
    printf '%s\n' 'cafile=/etc/ssl/certs/ca-certificates.crt' 'update-notifier=false' >"$settings/npmrc"
    registry=${NPM_CONFIG_REGISTRY:-$(npm config get registry 2>/dev/null || true)}
    [ -z "$registry" ] || echo "registry=$registry" >>"$settings/npmrc"
    [ ! -f /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$settings/ca-certificates.crt"
}

debian_rootfs() {
    need mmdebstrap mmdebstrap
    local packages=$1 mirror settings=$work/settings hooks=()
    mirror=$(debian_mirror)
    machine_settings
    hooks+=("--customize-hook=upload $settings/apt.conf /etc/apt/apt.conf.d/90machine")
    hooks+=("--customize-hook=upload $settings/pip.conf /etc/pip.conf")
    hooks+=("--customize-hook=upload $settings/npmrc /etc/npmrc")
    [ ! -f "$settings/ca-certificates.crt" ] ||
        hooks+=("--customize-hook=upload $settings/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt")
    # An image has one Python, so what protects a distribution's own (PEP 668) only stands in the way; the images named
    # `python` of the public registries have no such file either.
    # shellcheck disable=SC2016  # $1 is the hook's
    hooks+=('--customize-hook=rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED')
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0} mmdebstrap --quiet --variant=minbase --include="$packages" \
        "${hooks[@]}" bookworm "$work/rootfs.tar" ${mirror:+"$mirror"}
    xz -T0 -1 <"$work/rootfs.tar" >"$output.part"
}

case $kind in
busybox) busybox_rootfs ;;
debian) debian_rootfs ca-certificates ;;
node) debian_rootfs ca-certificates,nodejs,npm ;;
python) debian_rootfs ca-certificates,python3,python3-pip,python3-venv ;;
*) echo "unknown base: $kind" >&2; exit 2 ;;
esac
mv "$output.part" "$output"
