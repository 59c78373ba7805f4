#!/usr/bin/env python3
"""Runs rbuild beside the builders that are installed, on the same contexts, and prints a table.

    benches/compare/compare.py [--rbuild target/release/rbuild] [--runs 5] [--scale 1.0] [--only WORKLOAD,…]

Each workload is run alternately by each builder, so that a disturbance of the machine hits all; what is compared is the
median of the ratios of neighbouring runs. Memory is the largest resident set of any one process that the builder started
(wait4); less than this program itself has (some 20 MiB) cannot be seen. The base image comes from a registry on loopback
that this program starts. Every builder works in a store of its own below a temporary directory, with its default settings
but the cache switched on (buildah: --layers).

Needs docker-registry, busybox, and at least one peer (buildah); nothing but Python's standard library.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """A builder did not do what it was asked to."""


def measure(command, environment, log):
    """Runs a command; its wall time in seconds and the peak memory of its largest process in MiB."""
    with open(log, "ab") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = Path(log).read_text(errors="replace")[-2000:]
        raise Failed(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{tail}")
    return seconds, usage.ru_maxrss / 1024


class Builder:
    """A builder with a store of its own. Each method gives the commands of one task, which are timed together."""

    name = ""

    def __init__(self, directory):
        self.directory = directory / self.name
        self.directory.mkdir()
        self.log = self.directory / "log"
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "TMPDIR": str(self.directory)}

    def run(self, commands):
        """Times commands one after the other."""
        seconds, memory = 0.0, 0.0
        for command in commands:
            used, peak = measure(command, self.environment, self.log)
            seconds, memory = seconds + used, max(memory, peak)
        return seconds, memory

    def build(self, context, name, fresh):
        """Builds into the store; `fresh` ignores the cache of steps."""
        raise NotImplementedError

    def archive(self, context, name, fresh):
        """Builds and writes an OCI archive."""
        raise NotImplementedError

    def push(self, context, name):
        """Builds (from the cache) and pushes."""
        raise NotImplementedError

    def output(self):
        """Where archives go."""
        return self.directory / "image.tar"


class Rbuild(Builder):
    """The rbuild of this checkout."""

    name = "rbuild"

    def __init__(self, directory, program):
        super().__init__(directory)
        self.program = program
        self.environment["RBUILD_ROOT"] = str(self.directory / "store")

    def command(self, context, name, *more):
        return [self.program, "build", "--progress", "plain", "-t", name, *more, str(context)]

    def build(self, context, name, fresh):
        return [self.command(context, name, *(["--no-cache"] if fresh else []))]

    def archive(self, context, name, fresh):
        output = f"type=oci,dest={self.output()}"
        return [self.command(context, name, "-o", output, *(["--no-cache"] if fresh else []))]

    def push(self, context, name):
        return [self.command(context, name, "--push")]


class Buildah(Builder):
    """Buildah with layers, in the strongest isolation that works here."""

    name = "buildah"

    def __init__(self, directory):
        super().__init__(directory)
        # Rootless, its files belong to subordinate ids, so the store must lie where `buildah unshare` can remove it.
        self.base = ["buildah", "--root", str(self.directory / "store"), "--runroot", str(self.directory / "run")]
        self.isolation = "oci"

    def choose_isolation(self, base):
        """Falls back to chroot where the machine's runtime cannot start a container."""
        context = self.directory / "probe"
        context.mkdir()
        (context / "Dockerfile").write_text(f"FROM {base}\nRUN true\n")
        try:
            self.run(self.build(context, "localhost/probe:1", True))
        except Failed:
            self.isolation = "chroot"
            self.run(self.build(context, "localhost/probe:1", True))

    def build(self, context, name, fresh):
        more = ["--no-cache"] if fresh else []
        return [[*self.base, "build", "--layers", "--isolation", self.isolation, "--tls-verify=false", "-t", name, *more,
                 str(context)]]

    def archive(self, context, name, fresh):
        self.output().unlink(missing_ok=True)
        return [*self.build(context, name, fresh), [*self.base, "push", "-q", name, f"oci-archive:{self.output()}"]]

    def push(self, context, name):
        return [*self.build(context, name, False), [*self.base, "push", "-q", "--tls-verify=false", name]]


class Registry:
    """docker-registry on a free loopback port."""

    def __init__(self, directory):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"
        self.data = directory / "registry"
        configuration = directory / "registry.yml"
        configuration.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.data}}}}}\nhttp: {{addr: '{self.host}'}}\n"
        )
        log = open(directory / "registry.log", "wb")
        self.process = subprocess.Popen(["docker-registry", "serve", str(configuration)], stdout=log, stderr=log)
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/").close()
                return
            except OSError:
                time.sleep(0.05)
        raise Failed("docker-registry does not start")

    def end(self):
        """Ends the process that this value started."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def write_words(path, size, generator, words):
    """Text that compresses about as well as source code, and is not the same anywhere."""
    text = []
    length = 0
    while length < size:
        word = generator.choice(words) if generator.random() < 0.75 else f"{generator.getrandbits(36):x}"
        text.append(word)
        length += len(word) + 1
    path.write_text(" ".join(text)[:size])


WORDS = """allow branch buffer cache check close config context count default error event field file filter flush format
frame handle header index input item key label layer length limit link list local lock match merge method module name
node number object offset open order output owner parse path print queue range read record remove reply request result
return root route scope send server size source stack state store stream string table task text time token trace type
update user value version wait watch width word worker write""".split()


class Workload:
    """One thing that people wait for."""

    def __init__(self, name, title, write, task, before=None):
        self.name, self.title, self.write, self.task, self.before = name, title, write, task, before


def write_small(context, base, scale):
    (context / "Dockerfile").write_text(
        f"FROM {base}\nENV MODE=production\nWORKDIR /srv\nCOPY package.list .\nRUN cp package.list installed\n"
        "COPY . .\nEXPOSE 8080\nCMD [\"sh\"]\n"
    )
    (context / "package.list").write_text("one\ntwo\n")
    for number in range(40):
        (context / f"module{number}.txt").write_text(f"module {number}\n" * 20)


def write_runs(context, base, scale):
    steps = "".join(f"RUN echo {number} > /file{number}\n" for number in range(20))
    (context / "Dockerfile").write_text(f"FROM {base}\n{steps}")


def write_many(context, base, scale):
    generator = random.Random(20)
    (context / "Dockerfile").write_text(f"FROM {base}\nCOPY tree /tree\n")
    files = max(100, int(100_000 * scale))
    for number in range(files):
        directory = context / "tree" / f"d{number // 5000:03}" / f"e{number // 100 % 50:02}"
        if number % 100 == 0:
            directory.mkdir(parents=True)
        write_words(directory / f"f{number}.txt", generator.randrange(500, 3500), generator, WORDS)


def write_large(context, base, scale):
    generator = random.Random(21)
    (context / "Dockerfile").write_text(f"FROM {base}\nCOPY data /data\n")
    (context / "data").mkdir()
    size = max(1 << 20, int((1 << 30) * scale / 16))
    text = context / "data" / "text0"
    write_words(text, 8 << 20, generator, WORDS)
    words = text.read_bytes()
    for number in range(16):
        with open(context / "data" / f"part{number:02}", "wb") as file:
            left = size
            while left > 0:
                # Half of it is text, half is noise, as in images with programs and archives.
                start = generator.randrange(len(words) - 50_000)
                piece = words[start:start + 50_000] if number % 2 else generator.randbytes(1 << 16)
                file.write(piece[:left])
                left -= len(piece)
    text.unlink()


def edit(context, number):
    """The edit of one file that a developer makes between two builds."""
    (context / "module7.txt").write_text(f"edited for the {number}th time at {time.time_ns()}\n")


def edit_one_of_many(context, number):
    """As `edit`, in a large tree."""
    (context / "tree" / "d000" / "e00" / "f7.txt").write_text(f"edited for the {number}th time at {time.time_ns()}\n")


def workloads():
    """All of them, with what is timed: a function of the builder, the context, a name and the number of the run."""
    cached = lambda builder, context, name, number: builder.build(context, name, False)
    fresh = lambda builder, context, name, number: builder.build(context, name, True)
    archive = lambda builder, context, name, number: builder.archive(context, name, True)
    # Another repository each time, so that nothing is there but what the registry shares by itself.
    push = lambda builder, context, name, number: builder.push(context, f"{name.rsplit(':', 1)[0]}-{number}:1")
    return [
        Workload("noop", "build again, nothing changed", write_small, cached),
        Workload("edit", "build again after an edit of one file", write_small, cached, edit),
        Workload("runs", "20 small RUN steps", write_runs, fresh),
        Workload("many", "COPY of 100,000 small files, to an OCI archive", write_many, archive),
        Workload("many-noop", "100,000 small files, nothing changed", write_many, cached),
        Workload("many-edit", "100,000 small files, one edited", write_many, cached, edit_one_of_many),
        Workload("large", "COPY of 1 GB, to an OCI archive", write_large, archive),
        Workload("push", "push to another repository", write_small, push),
        Workload("push-large", "push of 1 GB to another repository", write_large, push),
    ]


def make_base(directory, registry, builders):
    """A base of busybox in the registry, built and pushed by the first peer."""
    context = directory / "base"
    shutil.copytree(SOURCE / "Dockerfile.examples" / "base", context)
    subprocess.run([context / "make-rootfs.sh", "busybox", context / "rootfs.tar.xz"], check=True)
    name = f"{registry.host}/base:1"
    builders[-1].run(builders[-1].push(context, name))
    return name


def write_apart(workload, context, base, scale):
    """Writes a context in a process of its own. A process starts with the peak memory of the one that started it
    (getrusage(2) keeps it over execve), so this one has to stay small for what it measures to be the builders'."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            workload.write(context, base, scale)
            status = 0
        finally:
            os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise Failed(f"the context of {workload.name} cannot be written")


def compare(workload, builders, contexts, base, registry, runs, scale):
    """Runs a workload; the rows of the table: per builder its seconds, memory and ratio to rbuild."""
    context = contexts / workload.name
    context.mkdir()
    write_apart(workload, context, base, scale)
    results = {builder.name: [] for builder in builders}
    for builder in builders:
        builder.run(workload.task(builder, context, f"{registry.host}/{builder.name}-{workload.name}:1", "warm"))
    for number in range(runs):
        # Who comes second would find the files in the page cache, so they take turns in going first.
        order = builders if number % 2 == 0 else builders[::-1]
        for builder in order:
            if workload.before:
                workload.before(context, number)
            name = f"{registry.host}/{builder.name}-{workload.name}:1"
            results[builder.name].append(builder.run(workload.task(builder, context, name, number)))
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


def main():
    parser = argparse.ArgumentParser(description="Compares rbuild with the builders that are installed.")
    parser.add_argument("--rbuild", default=str(SOURCE / "target" / "release" / "rbuild"), help="the program to compare")
    parser.add_argument("--runs", type=int, default=5, help="measured runs per workload (default 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the large contexts (default 1.0)")
    parser.add_argument("--only", default="", help="names of workloads, with commas: noop, edit, runs, many, many-noop, …")
    arguments = parser.parse_args()
    chosen = [word for word in arguments.only.split(",") if word]
    missing = [name for name in ("docker-registry", "buildah") if not shutil.which(name)]
    if missing or not Path(arguments.rbuild).exists():
        sys.exit(f"compare.py needs {', '.join(missing) or arguments.rbuild}")
    # Ended from outside, it still has to end the registry and remove its mounts and stores.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = Path(tempfile.mkdtemp(prefix="rbuild-compare-"))
    registry = None
    try:
        registry = Registry(directory)
        buildah = Buildah(directory)
        builders = [Rbuild(directory, str(Path(arguments.rbuild).resolve())), buildah]
        base = make_base(directory, registry, builders)
        buildah.choose_isolation(base)
        print(f"{arguments.runs} runs each; buildah {buildah.isolation} isolation; {os.cpu_count()} CPUs; scale {arguments.scale}\n")
        print("| workload | builder | median s | min–max s | ratio to rbuild | peak MiB |")
        print("|---|---|---:|---:|---:|---:|", flush=True)
        contexts = directory / "contexts"
        contexts.mkdir()
        for workload in workloads():
            if not chosen or workload.name in chosen:
                show(workload, compare(workload, builders, contexts, base, registry, arguments.runs, arguments.scale))
    except Failed as error:
        sys.exit(str(error))
    finally:
        if registry:
            registry.end()
        remove(directory)


if __name__ == "__main__":
    main()
