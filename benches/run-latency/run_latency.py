#!/usr/bin/env python3
"""Times `true` in rbuild's sandbox beside the runtimes that are installed, and prints a table with ratios.

    benches/run-latency/run_latency.py --sandbox target/release/deps/sandbox-… [--rounds 3] [--each 20]

The program is the test program of the sandbox, built for speed (`cargo test --release --no-run --test sandbox`), whose
`--time` runs `true` 300 times in one sandbox: what a build pays per RUN, measured inside of the process as a build has it.
Runtimes are started as processes, which is how they are used. All take turns, so that a disturbance of the machine hits
all. The root file system is busybox. As root it measures rbuild also as users with and without subordinate ids
(--with-range, --one-id), and everything lies on an ext4 of its own, new and with a journal: one without a journal looks at
every inode that was deleted in the last minutes whenever it makes a new one (`recently_deleted` in fs/ext4/ialloc.c), so
that what other programs did there before would be measured. Elsewhere it lies in TMPDIR.

Needs busybox; crun, runc, bwrap and buildah are left out where they are missing or do not work.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMED = re.compile(r"RUN true, network Host: median (\d+) us, quarter (\d+) us, p95 (\d+) us, min (\d+) us")


def as_user(user):
    """What starts a program as a user."""
    if user is None:
        return []
    return ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "env", "-i", f"PATH={os.environ['PATH']}"]


def sandbox(program, user, place):
    """One round of the sandbox's own timing in a directory: median and p95 in milliseconds."""
    run = subprocess.run([*as_user(user), "env", f"TMPDIR={place}", program, "--time"],
                         capture_output=True, text=True, check=True, cwd="/")
    median, _, p95, least = map(int, TIMED.search(run.stdout).groups())
    return median / 1000, p95 / 1000, least / 1000


def timed(command, environment):
    """How long a command takes, in milliseconds; None if it fails."""
    begin = time.perf_counter()
    run = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    took = (time.perf_counter() - begin) * 1000
    if run.returncode != 0:
        print(f"{command[0]} failed: {run.stderr.decode(errors='replace').strip()[-300:]}", file=sys.stderr)
        return None
    return took


def make_root(place):
    """A root file system of busybox."""
    root = place / "bundle" / "rootfs"
    for directory in ("bin", "proc", "sys", "dev", "tmp", "etc", "run"):
        (root / directory).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin/busybox")
    (root / "bin/true").symlink_to("busybox")
    return root


def configure(place):
    """The runtime's own example, of a command that ends."""
    bundle = place / "bundle"
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    file = bundle / "config.json"
    config = json.loads(file.read_text())
    config["process"]["args"], config["process"]["terminal"] = ["/bin/true"], False
    file.write_text(json.dumps(config))
    return bundle


def runtimes(place, root):
    """Commands that run `true`, by name."""
    found = {}
    if shutil.which("runc"):
        bundle = configure(place)
        # Without control groups, which rbuild does not use either where nothing is limited; some machines have a mixture of
        # both versions that these runtimes refuse.
        for name, without_groups in (("crun", "--cgroup-manager=disabled"), ("runc", "--rootless=true")):
            if shutil.which(name):
                run = ["run", "--bundle", str(bundle), "latency"]
                found[name] = [name, without_groups, "--root", str(place / name), *run]
    if shutil.which("bwrap"):
        found["bwrap"] = ["bwrap", "--unshare-all", "--share-net", "--die-with-parent", "--bind", str(root), "/",
                          "--proc", "/proc", "--dev", "/dev", "--cap-drop", "ALL", "/bin/true"]
    return found


def buildah(place, root, environment):
    """A working container of buildah and the commands that run `true` in it, by isolation."""
    base = ["buildah", "--root", str(place / "store"), "--runroot", str(place / "runroot"), "--storage-driver", "vfs"]
    name = subprocess.run([*base, "from", "scratch"], env=environment, capture_output=True, text=True, check=True)
    name = name.stdout.strip()
    subprocess.run([*base, "copy", "-q", name, str(root), "/"], env=environment, capture_output=True, check=True)
    return {f"buildah run --isolation {isolation}": [*base, "run", "--isolation", isolation, name, "/bin/true"]
            for isolation in ("oci", "chroot")}


def measure(arguments, place):
    """Rounds of everything, by name: lists of medians, 95th percentiles and least values."""
    root = make_root(place)
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "XDG_RUNTIME_DIR": str(place / "run")}
    (place / "run").mkdir()
    commands = runtimes(place, root)
    if shutil.which("buildah"):
        commands |= buildah(place, root, environment)
    commands = {name: command for name, command in commands.items() if timed(command, environment) is not None}
    for_all = place / "for-all"
    for_all.mkdir()
    for_all.chmod(0o1777)
    program = place / "sandbox"
    shutil.copy(arguments.sandbox, program)
    users = {"rbuild": None}
    if os.geteuid() == 0:
        users |= {"rbuild, subordinate ids": arguments.with_range, "rbuild, one id": arguments.one_id}
    rounds = {}
    for _ in range(arguments.rounds):
        for name, user in users.items():
            rounds.setdefault(name, []).append(sandbox(program, user, for_all))
        for name, command in commands.items():
            times = sorted(timed(command, environment) or float("nan") for _ in range(arguments.each))
            of = statistics.quantiles(times, n=20)
            rounds.setdefault(name, []).append((statistics.median(times), of[18], times[0]))
    return rounds


@contextlib.contextmanager
def file_system():
    """A directory on a file system of its own, which only root can have; else one for temporary files."""
    with tempfile.TemporaryDirectory(prefix="latency-") as directory:
        place = Path(directory) / "place"
        place.mkdir()
        os.chmod(directory, 0o755)
        if os.geteuid() != 0:
            yield place
            return
        image = Path(directory) / "image"
        with image.open("wb") as file:
            file.truncate(8 << 30)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandbox", type=Path, required=True, help="the sandbox's test program, built with --release")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--each", type=int, default=20, help="runs of a runtime in a round")
    parser.add_argument("--with-range", default="rb-sub", help="a user with subordinate ids")
    parser.add_argument("--one-id", default="rb-nosub", help="a user without")
    arguments = parser.parse_args()
    with file_system() as place:
        rounds = measure(arguments, place)
    base = statistics.median(median for median, _, _ in rounds["rbuild"])
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors, {arguments.rounds} rounds, in milliseconds")
    print("| `true` in | median of medians | best round: median | its p95 | least | ratio |\n|---|---:|---:|---:|---:|---:|")
    for name, times in rounds.items():
        median = statistics.median(each[0] for each in times)
        best = min(times)
        least = min(each[2] for each in times)
        print(f"| {name} | {median:.2f} | {best[0]:.2f} | {best[1]:.2f} | {least:.2f} | {median / base:.1f} |")


if __name__ == "__main__":
    main()
