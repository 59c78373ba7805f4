"""Kills rbuild at random moments, again and again, and looks at what is left.

python3 kill.py KILLS RBUILD ROOTFS DIRECTORY [SEED]

Builds, exports, pulls, pushes and prunes are killed with SIGKILL. After each kill the store must be whole; what comes after a
killed build must be the right image, with every step reused that had said that it was done. Pulls and pushes need
`docker-registry`; where it is missing they are left out, which is said.
"""
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time

KILLS, RBUILD, ROOTFS, BASE = int(sys.argv[1]), sys.argv[2], sys.argv[3], os.path.join(sys.argv[4], "kill")
CONTEXT, STORE = f"{BASE}/context", f"{BASE}/store"
DOCKERFILE = """FROM scratch AS busybox
ADD rootfs.tar.xz /
FROM busybox AS one
ARG N
RUN echo one-$N > /one; seq 1 2000 > /numbers
FROM busybox
ARG N
RUN --mount=type=cache,target=/c echo x >> /c/log; echo $N > /two
COPY data /data
COPY --from=one /one /numbers /from/
RUN cat /data /from/one /two > /last; for i in $(seq 1 20); do echo $N > /f$i; done
"""
ENVIRONMENT = dict(os.environ, RBUILD_ROOT=STORE, HOME=BASE)
ENVIRONMENT.pop("SOURCE_DATE_EPOCH", None)
ENDED = re.compile(r"^#(\d+) (DONE|CACHED)", re.MULTILINE)
TITLE = re.compile(r"^#(\d+) (\[.*\] (?:RUN|COPY|ADD) .*)$", re.MULTILINE)


class Registry:
    """A registry on a free port; none where the program is missing."""

    def __init__(self):
        self.host = None
        if not shutil.which("docker-registry"):
            print("docker-registry is not installed: nothing is pulled or pushed")
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with open(f"{BASE}/registry.yml", "w") as file:
            json.dump({"version": 0.1, "log": {"level": "error"}, "http": {"addr": f"127.0.0.1:{port}"},
                       "storage": {"filesystem": {"rootdirectory": f"{BASE}/registry"}}}, file)
        self.process = subprocess.Popen(["docker-registry", "serve", f"{BASE}/registry.yml"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.host = f"127.0.0.1:{port}"
        for _ in range(400):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except OSError:
                time.sleep(0.05)
        sys.exit("docker-registry does not answer")

    def stop(self):
        if self.host:
            self.process.kill()
            self.process.wait()


def run(*command):
    return subprocess.run([RBUILD, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="replace", env=ENVIRONMENT, cwd=BASE)


def must(*command):
    done = run(*command)
    if done.returncode != 0:
        sys.exit(f"{command} failed: {done.stderr}")
    return done


def build(number, *more):
    return ("build", "--progress=plain", "--build-arg", f"N={number}", *more, CONTEXT)


def finished(text):
    """The steps that were said to be done, by title."""
    titles = dict(TITLE.findall(text))
    return {titles[step]: how for step, how in ENDED.findall(text) if step in titles}


def last_of(archive):
    """The file /last of an OCI archive."""
    with tarfile.open(archive) as tar:
        index = json.load(tar.extractfile("index.json"))
        blob = lambda digest: tar.extractfile("blobs/" + digest.replace(":", "/"))
        manifest = json.load(blob(index["manifests"][0]["digest"]))
        for layer in reversed(manifest["layers"]):
            with tarfile.open(fileobj=blob(layer["digest"])) as files:
                if "last" in files.getnames():
                    return files.extractfile("last").read().decode()


class Trial:
    def __init__(self, registry):
        self.registry, self.number, self.kills, self.missed = registry, 0, 0, 0
        self.damaged, self.wrong, self.run_again = 0, 0, 0
        self.longest = {}

    def kinds(self):
        kinds = {"build": 5, "export": 3, "prune": 2}
        if self.registry.host:
            kinds.update(push=2, pull=2)
        return kinds

    def command(self, kind):
        host = self.registry.host
        if kind == "build":
            self.number += 1
            return build(self.number, "-t", f"app{self.number % 5}")
        if kind == "export":
            form = random.choice(["oci", "docker", "tar", "local"])
            return build(self.number, "-o", f"type={form},dest={BASE}/out/{form}")
        if kind == "push":
            # Bytes of its own each time: else the registry has all of them.
            self.number += 1
            return build(self.number, "-t", f"{host}/app:{self.number % 3}", "--push")
        if kind == "pull":
            return ("pull", f"{host}/base:1")
        return random.choice([("prune", "--all"), ("prune", "--max-used-space", "4m"), ("rmi", "--force", "app1")])

    def kill_one(self):
        kinds = self.kinds()
        kind = random.choices(list(kinds), list(kinds.values()))[0]
        if kind == "pull" and random.random() < 0.7:
            # What is here is not pulled again.
            run("rmi", "--force", f"{self.registry.host}/base:1")
            must("prune", "--all")
        longest = self.longest.get(kind, 1.0)
        begun = time.monotonic()
        process = subprocess.Popen([RBUILD, *self.command(kind)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   text=True, errors="replace", env=ENVIRONMENT, cwd=BASE)
        try:
            process.wait(random.random() * longest)
            self.missed += 1
            # So that most moments are within the work, as it gets faster or slower.
            self.longest[kind] = 0.9 * longest + 0.1 * (time.monotonic() - begun)
        except subprocess.TimeoutExpired:
            process.kill()
            self.kills += 1
            self.longest[kind] = longest * 1.01
        said = process.stderr.read()
        process.wait()
        check = run("check", "--deep")
        if check.returncode != 0:
            self.damaged += 1
            print(f"after {kind}: {check.stdout}{check.stderr}", flush=True)
        if kind in ("build", "push", "export"):
            self.next_build_is_right(said)

    def next_build_is_right(self, said):
        archive = f"{BASE}/image.tar"
        done = run(*build(self.number, "-o", f"type=oci,dest={archive}"))
        expected = f"data\none-{self.number}\n{self.number}\n"
        if done.returncode != 0 or last_of(archive) != expected:
            self.wrong += 1
            print(f"build {self.number} is wrong: {done.stderr}", flush=True)
        now = finished(done.stderr)
        again = [title for title in finished(said) if now.get(title) != "CACHED"]
        self.run_again += len(again)
        if again:
            print(f"run again: {again}\nbefore: {said}\nnow: {done.stderr}", flush=True)


def drafts(without):
    """Trees that were begun or given up."""
    found = []
    for folder, names, _ in os.walk(f"{STORE}/trees"):
        if os.path.basename(folder) != without:
            found += [name for name in names if name.endswith(".draft")]
    return found


def main():
    random.seed(int(sys.argv[5]) if len(sys.argv) > 5 else 1)
    os.makedirs(f"{BASE}/out")
    os.makedirs(CONTEXT)
    shutil.copy(ROOTFS, f"{CONTEXT}/rootfs.tar.xz")
    for name, text in [("Dockerfile", DOCKERFILE), ("data", "data\n")]:
        with open(f"{CONTEXT}/{name}", "w") as file:
            file.write(text)
    registry = Registry()
    try:
        trial = Trial(registry)
        must(*build(0))
        if registry.host:
            must(*build(0, "--target=busybox", "-t", f"{registry.host}/base:1", "--push"))
        while trial.kills < KILLS:
            trial.kill_one()
        # What was left of trees goes with the next build that works with some, mount points with the next prune.
        must(*build(trial.number, "--no-cache"))
        left = drafts("stubs")
        must("prune", "--all")
        left += drafts(None)
        print(f"kills {trial.kills} damaged {trial.damaged} wrong {trial.wrong} run again {trial.run_again} "
              f"drafts {len(left)}; ended before the kill {trial.missed}")
    finally:
        registry.stop()


main()
