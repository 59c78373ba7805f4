"""The builders that are compared: each one's commands for the same tasks, in a store of its own."""

import os
import shutil
import subprocess
import time
from pathlib import Path


class Failed(Exception):
    """A builder did not do what it was asked to."""


def measure(command, environment, log, directory=None):
    """Runs a command; its wall time in seconds and the peak memory of its largest process in MiB."""
    with open(log, "ab") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                   cwd=directory)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = Path(log).read_text(errors="replace")[-2000:]
        raise Failed(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{tail}")
    return seconds, usage.ru_maxrss / 1024


class Builder:
    """A builder with a store of its own. Each task gives its commands, which are timed together."""

    name = ""

    def __init__(self, directory):
        self.directory = directory / self.name
        self.directory.mkdir()
        self.log = self.directory / "log"
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "TMPDIR": str(self.directory)}

    def run(self, commands):
        """Times commands one after the other."""
        self.prepare()
        seconds, memory = 0.0, 0.0
        for command in commands:
            used, peak = measure(command, self.environment, self.log)
            seconds, memory = seconds + used, max(memory, peak)
        return seconds, max(memory, self.daemon_memory())

    def prepare(self):
        """What comes before a task and is not timed."""

    def daemon_memory(self):
        """Peak memory since `prepare` of what was running before, in MiB."""
        return 0.0

    def end(self):
        """Ends what this builder started."""

    def build(self, context, name, fresh):
        """Builds into the store; `fresh` ignores the cache of steps."""
        raise NotImplementedError

    def archive(self, context, name, fresh, compression):
        """Builds and writes an archive of the image."""
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

    def archive(self, context, name, fresh, compression):
        output = f"type=oci,dest={self.output()},compression={compression}"
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

    def archive(self, context, name, fresh, compression):
        self.output().unlink(missing_ok=True)
        push = [*self.base, "push", "-q", "--compression-format", compression, name, f"oci-archive:{self.output()}"]
        return [*self.build(context, name, fresh), push]

    def push(self, context, name):
        return [*self.build(context, name, False), [*self.base, "push", "-q", "--tls-verify=false", name]]


class BuildKit(Builder):
    """BuildKit with a daemon that is running already, by its own client. A result that is kept is not exported at all,
    which is less than `docker build` does."""

    name = "BuildKit"

    def __init__(self, directory, registry):
        super().__init__(directory)
        configuration = self.directory / "buildkitd.toml"
        configuration.write_text(
            f'root = "{self.directory}/root"\n[worker.containerd]\nenabled = false\n[worker.oci]\ngc = false\n'
            f'[registry."{registry.host}"]\nhttp = true\ninsecure = true\n')
        address = f"unix://{self.directory}/buildkitd.sock"
        self.environment["BUILDKIT_HOST"] = address
        log = open(self.directory / "daemon.log", "wb")
        daemon = ["buildkitd", "--config", str(configuration), "--addr", address]
        self.process = subprocess.Popen(daemon, stdout=log, stderr=log, env=self.environment)
        for _ in range(200):
            if subprocess.run(["buildctl", "debug", "workers"], env=self.environment, capture_output=True,
                              check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise Failed("buildkitd does not start")

    def prepare(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def daemon_memory(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024

    def end(self):
        self.process.terminate()
        self.process.wait()

    def command(self, context, fresh, *more):
        return ["buildctl", "build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", f"context={context}",
                "--local", f"dockerfile={context}", *(["--no-cache"] if fresh else []), *more]

    def build(self, context, name, fresh):
        return [self.command(context, fresh)]

    def archive(self, context, name, fresh, compression):
        return [self.command(context, fresh, "--output", f"type=oci,dest={self.output()},compression={compression}")]

    def push(self, context, name):
        return [self.command(context, False, "--output", f"type=image,name={name},push=true")]


class Kaniko(Builder):
    """Kaniko in a root directory of its own, as it works on the one that it runs in. What it keeps it keeps in a registry."""

    name = "kaniko"

    def __init__(self, directory, program, registry):
        super().__init__(directory)
        self.program, self.registry = program, registry
        self.root = self.directory / "root"

    def prepare(self):
        shutil.rmtree(self.root, ignore_errors=True)
        for name in ("kaniko/.docker", "workspace", "proc", "dev", "tmp", "etc", "out"):
            (self.root / name).mkdir(parents=True)
        shutil.copy(self.program, self.root / "kaniko/executor")
        shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")

    def command(self, context, *more):
        flags = ["--force", "--context", "dir:///workspace", "--insecure", "--insecure-pull", "--verbosity", "warn"]
        script = ('mount --bind "$1" "$0/workspace" && mount -o remount,bind,ro "$0/workspace" && '
                  'mount --bind "$2" "$0/out" && mount -t proc proc "$0/proc" && mount -t tmpfs dev "$0/dev" && '
                  'mknod -m 666 "$0/dev/null" c 1 3 && mknod -m 666 "$0/dev/zero" c 1 5 && '
                  'mknod -m 666 "$0/dev/urandom" c 1 9 && root="$0" && shift 2 && exec chroot "$root" /kaniko/executor "$@"')
        return ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "DOCKER_CONFIG=/kaniko/.docker",
                "unshare", "--mount", "sh", "-c", script, str(self.root), str(context), str(self.directory), *flags, *more]

    def cached(self, name):
        return ["--cache", "--cache-copy-layers", "--cache-repo", f"{self.registry.host}/kaniko-cache"]

    def build(self, context, name, fresh):
        return [self.command(context, "--no-push", *([] if fresh else self.cached(name)))]

    def archive(self, context, name, fresh, compression):
        more = [] if fresh else self.cached(name)
        output = ["--no-push", "--destination", name, "--tar-path", f"/out/{self.output().name}"]
        return [self.command(context, *output, "--compression", compression, *more)]

    def push(self, context, name):
        return [self.command(context, "--destination", name, *self.cached(name))]


class Bare:
    """No builder: the least that has to be done, by plain commands on the same files."""

    name = "bare"

    def __init__(self, directory):
        self.directory = directory / self.name
        self.directory.mkdir()

    def run(self, script, context):
        """Times a script in the context; `$OUT` is an empty directory on the same file system."""
        out = self.directory / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        environment = {"PATH": os.environ["PATH"], "OUT": str(out)}
        return measure(["sh", "-e", "-c", script], environment, self.directory / "log", context)
