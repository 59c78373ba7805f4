#!/usr/bin/env python3
"""Writes seeds made from the corpora under testdata/ to a directory: seeds.py DIRECTORY."""

import pathlib
import re
import sys

SOURCE = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(sys.argv[1])
SIGNS = str.maketrans({"␤": "\n", "␠": " ", "␉": "\t", "␍": "\r", "␡": "\ufeff"})


def write(target, seeds):
    directory = TARGET / target
    directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(sorted(seeds)):
        (directory / f"corpus-{number}").write_bytes(seed if isinstance(seed, bytes) else seed.encode())


def dockerfiles():
    for path in SOURCE.glob("testdata/dockerfile/*.txt"):
        for case in re.split(r"^=== .*\n", path.read_text(), flags=re.M)[1:]:
            yield case.split("---\n")[0]
    for path in SOURCE.glob("testdata/plan/*.txt"):
        yield from re.findall(r"^--- Dockerfile\n(.*?)^--- ", path.read_text(), flags=re.M | re.S)


def ignore_files():
    for line in (SOURCE / "testdata/ignore/cases.txt").read_text().splitlines():
        if line and not line.startswith("# ") and line.count(" | ") >= 2:
            rules, path, _ = line.rsplit(" | ", 2)
            yield f"{rules}\0{path}".translate(SIGNS)


def package_lists():
    # The letters of PLACES in fuzz/src/lib.rs: a database of rpm, a lock file of cargo.
    yield b"d" + (SOURCE / "testdata/sbom/rpmdb.sqlite").read_bytes()
    yield b"h" + (SOURCE / "Cargo.lock").read_bytes()


texts = set(dockerfiles())
write("dockerfile", texts)
write("ignore_file", set(ignore_files()))
write("mount", {value for text in texts for value in re.findall(r"--mount=(\S+)", text)})
write("reference", {value for text in texts for value in re.findall(r"^FROM +([^ \n$]+)", text, flags=re.M | re.I)})
write("sbom", set(package_lists()))
