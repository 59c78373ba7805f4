#!/usr/bin/env bash
# From a new Debian machine to running web servers: installs what is needed, builds rbuild, starts a registry of your own,
# makes base images from Debian packages, then builds, pushes, builds again, edits and starts every example.
# It reaches package registries only (Debian, crates.io, npm, PyPI). Run it as root, or as a user after root has run it once
# with --install.
#
#     Dockerfile.examples/quickstart.sh [--install] [EXAMPLE…]
set -euo pipefail
examples=$(cd "$(dirname "$0")" && pwd)
cd "$examples/.."

say() {
    printf '\n\033[1m%s\033[0m\n' "$*"
}

if [ "$(id -u)" = 0 ]; then
    say "Installing what the examples need"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends docker-registry uidmap busybox-static mmdebstrap xz-utils \
        skopeo umoci runc util-linux curl ca-certificates >/dev/null
fi
if [ "${1:-}" = --install ]; then
    exit 0
fi

say "Building rbuild"
cargo build --release
target=${CARGO_TARGET_DIR:-target}
PATH=$(cd "$target" && pwd)/release:$PATH

work=$(mktemp -d)
registry_process=
end() {
    [ -z "$registry_process" ] || kill "$registry_process"
    RBUILD_ROOT=$work/store rbuild prune --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap end EXIT
export RBUILD_ROOT=$work/store

say "Starting a registry"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
registry=127.0.0.1:$port
cat >"$work/registry.yml" <<YML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "$registry"}
YML
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry_process=$!
until curl -sf "http://$registry/v2/" >/dev/null; do
    kill -0 "$registry_process" || { cat "$work/registry.log" >&2; exit 1; }
    sleep 0.1
done

# base KIND: makes a base image, pushes it, and prints its name.
base() {
    local name=$registry/base/$1:1
    if [ ! -f "$work/$1.done" ]; then
        mkdir -p "$work/base-$1"
        cp "$examples/base/Dockerfile" "$examples/base/.dockerignore" "$work/base-$1/"
        "$examples/base/make-rootfs.sh" "$1" "$work/base-$1/rootfs.tar.xz" >&2
        rbuild build -t "$name" --push "$work/base-$1" >/dev/null
        touch "$work/$1.done"
    fi
    echo "$name"
}

# fetch ARCHIVE PORT: starts an image in a network of its own and prints the page it serves.
fetch() {
    local bundle=$work/bundle pid
    rm -rf "$work/layout" "$bundle"
    skopeo copy --quiet "oci-archive:$1" "oci:$work/layout:x"
    umoci unpack --image "$work/layout:x" "$bundle" >/dev/null 2>&1
    python3 - "$bundle/config.json" <<'PY'
import json, sys
config = json.load(open(sys.argv[1]))
config["process"].update(terminal=False, rlimits=[])
config["linux"].pop("resources", None)
# What Docker lets a container's root do; umoci grants less, not even the chown that Apache starts with.
names = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETGID SETPCAP SETUID SYS_CHROOT".split()
for kind in "bounding", "effective", "permitted":
    config["process"]["capabilities"][kind] = ["CAP_" + name for name in names]
for kind in "inheritable", "ambient":
    config["process"]["capabilities"][kind] = []
json.dump(config, open(sys.argv[1], "w"))
PY
    runc --root "$work/runc" run --detach --bundle "$bundle" --pid-file "$work/pid" page </dev/null >"$work/page.log" 2>&1
    pid=$(cat "$work/pid")
    for _ in $(seq 100); do
        if nsenter --net --target "$pid" curl -sf "http://127.0.0.1:$2/"; then
            runc --root "$work/runc" delete --force page
            return
        fi
        sleep 0.2
    done
    cat "$work/page.log" >&2
    runc --root "$work/runc" delete --force page
    return 1
}

# example NAME BASE FILE PORT: builds, pushes, builds again, edits FILE, builds again, and asks the image for its page.
example() {
    local name=$1 base image=$registry/examples/$1:1 context=$work/$1
    base=$(base "$2")
    cp -R "$examples/$name" "$context"
    local build=(rbuild build --progress plain --build-arg "BASE=$base" -t "$image")
    say "$name: build and push"
    time "${build[@]}" --push "$context"
    say "$name: build again: everything is cached"
    time "${build[@]}" "$context"
    if [ -n "$3" ]; then
        say "$name: after an edit of $3"
        sed -i 's/Hello from/Greetings from/' "$context/$3"
        time "${build[@]}" "$context"
    fi
    if [ -n "$4" ] && [ "$(id -u)" = 0 ]; then
        say "$name: the page of the started image"
        rbuild build --build-arg "BASE=$base" -t "$image" -o "type=oci,dest=$work/$name.tar" "$context" 2>/dev/null
        fetch "$work/$name.tar" "$4"
    fi
}

[ $# -gt 0 ] || set -- node-express apache flask multi-stage
for name in "$@"; do
    case $name in
    node-express) example node-express node app.js 8080 ;;
    apache) example apache debian index.html 80 ;;
    flask) example flask python app.py 5000 ;;
    multi-stage) example multi-stage debian "" "" ;;
    *) echo "no example $name" >&2; exit 2 ;;
    esac
done
say "Done."
