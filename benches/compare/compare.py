#!/usr/bin/env python3
"""Runs rbuild beside the builders that are installed, on the same contexts, and prints a table.

    benches/compare/compare.py [--rbuild target/release/rbuild] [--runs 5] [--scale 1.0] [--only WORKLOAD,…]
                               [--without BUILDER,…] [--kaniko EXECUTOR] [--node-rootfs node.tar.xz]

Each workload is run alternately by each builder, so that a disturbance of the machine hits all; what is compared is the
median of the ratios of neighbouring runs. Memory is the largest resident set of any one process that the builder started
(wait4; of BuildKit's daemon the peak during the task); less than this program itself has (some 20 MiB) cannot be seen. Base
images come from a registry on loopback that this program starts. Every builder works in a store of its own below a temporary
directory, with its default settings but the cache switched on. `bare` is the least that has to be done, by plain commands.

Needs docker-registry, busybox and at least one peer: buildah, BuildKit (`buildkitd` and `buildctl` in PATH, as root), or
kaniko's `executor` (as root; in a chroot of its own). Nothing but Python's standard library.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from builders import Bare, Buildah, BuildKit, Failed, Kaniko, Rbuild
from registry import Registry
from workloads import workloads

SOURCE = Path(__file__).resolve().parents[2]


def make_base(directory, registry, rbuild, kind, rootfs):
    """A base image in the registry, built and pushed by rbuild from an archive that is given or made."""
    context = directory / f"base-{kind}"
    shutil.copytree(SOURCE / "Dockerfile.examples" / "base", context)
    if rootfs:
        shutil.copy(rootfs, context / "rootfs.tar.xz")
    else:
        subprocess.run([context / "make-rootfs.sh", kind, context / "rootfs.tar.xz"], check=True)
    name = f"{registry.host}/{kind}:1"
    rbuild.run(rbuild.push(context, name))
    return name


def write_apart(workload, context, bases, scale):
    """Writes a context in a process of its own. A process starts with the peak memory of the one that started it
    (getrusage(2) keeps it over execve), so this one has to stay small for what it measures to be the builders'."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            workload.write(context, bases, scale)
            status = 0
        finally:
            os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise Failed(f"the context of {workload.name} cannot be written")


def compare(workload, builders, bare, contexts, bases, registry, arguments):
    """Runs a workload; per builder the seconds and memory of its runs."""
    context = contexts / workload.name
    context.mkdir()
    write_apart(workload, context, bases, arguments.scale)
    names = {builder.name: f"{registry.host}/{builder.name.lower()}-{workload.name}:1" for builder in builders}
    results = {builder.name: [] for builder in builders}
    for builder in builders:
        builder.run(workload.task(builder, context, names[builder.name], "warm"))
    for number in range(arguments.runs):
        # Who comes second would find the files in the page cache, so they take turns in going first.
        order = builders if number % 2 == 0 else builders[::-1]
        for builder in order:
            if workload.emptied:
                registry.lose_large()
            if workload.before:
                workload.before(context, number)
            results[builder.name].append(builder.run(workload.task(builder, context, names[builder.name], number)))
        if workload.bare:
            results.setdefault(bare.name, []).append(bare.run(workload.bare, context))
    shutil.rmtree(context)
    return results


def show(workload, results):
    """Prints the rows of one workload."""
    own = [seconds for seconds, _ in results["rbuild"]]
    for name, measured in results.items():
        seconds = [value for value, _ in measured]
        memory = max(value for _, value in measured)
        ratio = statistics.median(theirs / ours for theirs, ours in zip(seconds, own))
        title = workload.title if name == "rbuild" else ""
        spread = f"{min(seconds):.3f}–{max(seconds):.3f}"
        print(f"| {title:<46} | {name:<8} | {statistics.median(seconds):>9.3f} | {spread:>15} | {ratio:>6.2f} | {memory:>8.0f} |", flush=True)


def remove(directory):
    """Removes the stores. Buildah leaves mounts of its store; rootless, some files belong to subordinate ids."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{directory}/")]):
        subprocess.run(["umount", mount], check=False)
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        subprocess.run(["unshare", "--user", "--map-root-user", "--map-auto", "rm", "-rf", str(directory)], check=False)


def read_arguments():
    parser = argparse.ArgumentParser(description="Compares rbuild with the builders that are installed.")
    parser.add_argument("--rbuild", default=str(SOURCE / "target" / "release" / "rbuild"), help="the program to compare")
    parser.add_argument("--runs", type=int, default=5, help="measured runs per workload (default 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the large contexts (default 1.0)")
    parser.add_argument("--only", default="", help="names of workloads, with commas: noop, edit, runs, many, many-noop, …")
    parser.add_argument("--without", default="", help="builders to leave out, with commas: buildah, BuildKit, kaniko")
    parser.add_argument("--kaniko", help="kaniko's executor")
    parser.add_argument("--node-rootfs", help="a root file system with node, as base/make-rootfs.sh makes it")
    arguments = parser.parse_args()
    if not Path(arguments.rbuild).exists() or not shutil.which("docker-registry"):
        sys.exit(f"compare.py needs {arguments.rbuild} and docker-registry")
    return arguments


def peers(directory, registry, base, arguments):
    """The other builders that are here, told apart from those that are not."""
    left_out = [word.lower() for word in arguments.without.split(",")]
    found = []
    if shutil.which("buildah") and "buildah" not in left_out:
        buildah = Buildah(directory)
        buildah.choose_isolation(base)
        print(f"buildah: isolation {buildah.isolation}")
        found.append(buildah)
    if shutil.which("buildkitd") and shutil.which("buildctl") and "buildkit" not in left_out:
        found.append(BuildKit(directory, registry))
    if arguments.kaniko and "kaniko" not in left_out:
        found.append(Kaniko(directory, arguments.kaniko, registry))
    return found


def run_all(directory, registry, arguments):
    """Everything that was chosen."""
    chosen = [word for word in arguments.only.split(",") if word]
    wanted = [each for each in workloads(arguments.scale) if not chosen or each.name in chosen]
    rbuild = Rbuild(directory, str(Path(arguments.rbuild).resolve()))
    bases = {"busybox": make_base(directory, registry, rbuild, "busybox", None)}
    if any(each.name.startswith("node") for each in wanted):
        bases["node"] = make_base(directory, registry, rbuild, "node", arguments.node_rootfs)
    contexts = directory / "contexts"
    contexts.mkdir()
    builders = [rbuild]
    try:
        builders += peers(directory, registry, bases["busybox"], arguments)
        print(f"{arguments.runs} runs each; {os.cpu_count()} CPUs; load {os.getloadavg()[0]:.1f}; scale {arguments.scale}\n")
        print("| workload | builder | median s | min–max s | ratio to rbuild | peak MiB |")
        print("|---|---|---:|---:|---:|---:|", flush=True)
        bare = Bare(directory)
        for workload in wanted:
            show(workload, compare(workload, builders, bare, contexts, bases, registry, arguments))
    finally:
        for builder in builders:
            builder.end()


def main():
    arguments = read_arguments()
    # Ended from outside, it still has to end the registry and remove its mounts and stores.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = Path(tempfile.mkdtemp(prefix="rbuild-compare-"))
    registry = None
    try:
        registry = Registry(directory)
        run_all(directory, registry, arguments)
    except Failed as error:
        sys.exit(str(error))
    finally:
        if registry:
            registry.end()
        remove(directory)


if __name__ == "__main__":
    main()
