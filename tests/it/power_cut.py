"""Cuts the power of a file system under rbuild, again and again, and looks at what is left.

python3 power_cut.py CUTS RBUILD ROOTFS DIRECTORY [SEED], as root and in a mount namespace of its own.

Every second cut comes as soon as a build has ended well: its image must be there and whole. The others come at some
moment within a build: nothing that is there may be half written. A journal is committed all the time, so that names
reach the disk before the data of their files: that is what a power cut is feared for.
"""
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time

CUTS, RBUILD, ROOTFS, BASE = int(sys.argv[1]), sys.argv[2], sys.argv[3], os.path.join(sys.argv[4], "power")
DISK, MOUNT, CONTEXT = f"{BASE}/disk", f"{BASE}/mount", f"{BASE}/context"
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
DOCKERFILE = """FROM scratch
ADD rootfs.tar.xz /
RUN --mount=type=cache,target=/c echo one > /one; seq 1 20000 > /c/x
ARG N
COPY data /data
RUN for i in $(seq 1 60); do echo $N-$i > /f$i; done; dd if=/dev/urandom of=/big bs=64k count=10 2>/dev/null
RUN cat /big | md5sum > /sum; echo $N > /last
"""


def run(*command):
    environment = dict(os.environ, RBUILD_ROOT=f"{MOUNT}/store")
    environment.pop("SOURCE_DATE_EPOCH", None)
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def must(*command):
    done = run(*command)
    if done.returncode != 0:
        sys.exit(f"{command} failed: {done.stdout}")
    return done.stdout


def commit_journal(running):
    while True:
        running.wait()
        try:
            other = os.open(f"{MOUNT}/other", os.O_CREAT | os.O_WRONLY)
            try:
                os.write(other, b"x")
                os.fsync(other)
            finally:
                os.close(other)
        except OSError:
            pass
        time.sleep(0.01)


def cut(running, process):
    directory = os.open(MOUNT, os.O_RDONLY)
    fcntl.ioctl(directory, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    os.close(directory)
    running.clear()
    if process:
        process.kill()
        process.wait()
    for _ in range(600):
        run("umount", MOUNT)
        # Processes that die take their own view of the mount with them.
        if not run("losetup", "-j", DISK).stdout:
            break
        time.sleep(0.05)
    else:
        sys.exit("the file system does not go away")
    must("mount", "-o", "loop", DISK, MOUNT)
    # The kernel still runs, so the marks of what was not flushed are of this boot; they must not be.
    marks = f"{MOUNT}/store/unflushed"
    for name in os.listdir(marks) if os.path.isdir(marks) else []:
        os.rename(f"{marks}/{name}", f"{marks}/{random.getrandbits(64):x}")


def build(number, *more):
    with open(f"{CONTEXT}/data", "w") as data:
        data.write(f"data {number}\n" * 100)
    return (RBUILD, "build", "-q", "--build-arg", f"N={number}", *more, CONTEXT)


def is_right(number):
    shutil.rmtree(f"{BASE}/files", ignore_errors=True)
    done = run(*build(number, "-o", f"{BASE}/files"))
    if done.returncode != 0:
        return None
    with open(f"{BASE}/files/last") as last, open(f"{BASE}/files/sum") as total:
        whole = run("md5sum", f"{BASE}/files/big").stdout[:32]
        return done.stdout.strip() if last.read().strip() == str(number) and total.read()[:32] == whole else None


def main():
    random.seed(int(sys.argv[5]) if len(sys.argv) > 5 else 1)
    os.makedirs(MOUNT)
    os.makedirs(CONTEXT)
    shutil.copy(ROOTFS, f"{CONTEXT}/rootfs.tar.xz")
    with open(f"{CONTEXT}/Dockerfile", "w") as dockerfile:
        dockerfile.write(DOCKERFILE)
    with open(DISK, "w") as disk:
        disk.truncate(600 << 20)
    must("mkfs.ext4", "-q", "-F", DISK)
    must("mount", "-o", "loop", DISK, MOUNT)
    running = threading.Event()
    threading.Thread(target=commit_journal, args=(running,), daemon=True).start()
    acknowledged, lost, damaged, wrong = [], 0, 0, 0
    for number in range(CUTS):
        running.set()
        process = None
        if number % 2 == 0:
            identity = must(*build(number, "-t", f"image{number}")).strip()
            acknowledged.append((number, identity))
        else:
            process = subprocess.Popen(build(number), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       env=dict(os.environ, RBUILD_ROOT=f"{MOUNT}/store"))
            time.sleep(random.random() * 0.6)
        cut(running, process)
        check = run(RBUILD, "check", "--deep")
        if check.returncode != 0:
            damaged += 1
            print(check.stdout)
        images = run(RBUILD, "images").stdout
        lost += sum(f"image{kept} " not in images for kept, _ in acknowledged)
        kept, identity = acknowledged[-1]
        found = is_right(kept)
        if found is None:
            wrong += 1
        elif found != identity:
            lost += 1
        if len(acknowledged) > 5:
            must(RBUILD, "rmi", f"image{acknowledged.pop(0)[0]}")
        if number % 50 == 49:
            must(RBUILD, "prune", "--max-used-space", "60m")
    run("umount", MOUNT)
    print(f"cuts {CUTS} acknowledged {(CUTS + 1) // 2} lost {lost} damaged {damaged} wrong {wrong}")


main()
