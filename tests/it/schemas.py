"""Holds documents of images against the schemas of OCI's image-spec.

    schemas.py SCHEMAS PLACE...

Each PLACE is a directory or a tar: every file in it is taken for what a descriptor that points at it says it is, or, where
none does, its name or its own media type. Prints how many of each kind there were; ends with 1 and what is wrong where one is
not as its schema says.
"""

import hashlib
import json
import os
import re
import sys
import tarfile

import jsonschema

SCHEMAS = {
    "manifest": "image-manifest-schema.json",
    "index": "image-index-schema.json",
    "config": "config-schema.json",
    "layout": "image-layout-schema.json",
}


def pointed_at(directory, file, reference):
    """What a reference of a schema in a file points at, and in which file that is."""
    name, _, path = reference.partition("#")
    name = name or file
    with open(os.path.join(directory, name)) as opened:
        found = json.load(opened)
    for part in path.strip("/").split("/") if path.strip("/") else []:
        found = found[part]
    return found, name


def inlined(directory, file, node):
    """A schema without references: versions of jsonschema differ in how they look them up."""
    if isinstance(node, list):
        return [inlined(directory, file, item) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        found, name = pointed_at(directory, file, node["$ref"])
        return inlined(directory, name, found)
    # An identifier alone would make relative references mean something else; there are none left.
    kept = {key: value for key, value in node.items() if not (key in ("id", "$schema") and isinstance(value, str))}
    return {key: inlined(directory, file, value) for key, value in kept.items()}


def validator(directory, file):
    schema, name = pointed_at(directory, file, file)
    return jsonschema.Draft4Validator(inlined(directory, name, schema), format_checker=jsonschema.FormatChecker())


def contents(place):
    """Names and bytes of all files."""
    if os.path.isdir(place):
        for folder, _, names in os.walk(place):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as opened:
                    yield path, opened.read()
    else:
        with tarfile.open(place) as archive:
            for member in archive:
                if member.isfile():
                    yield f"{place}: {member.name}", archive.extractfile(member).read()


KINDS = {
    "application/vnd.oci.image.manifest.v1+json": "manifest",
    "application/vnd.docker.distribution.manifest.v2+json": "manifest",
    "application/vnd.oci.image.index.v1+json": "index",
    "application/vnd.docker.distribution.manifest.list.v2+json": "index",
    "application/vnd.oci.image.config.v1+json": "config",
    "application/vnd.docker.container.image.v1+json": "config",
}
NAMES = {"index.json": "index", "oci-layout": "layout"}


def descriptors(node):
    """Digest and media type of everything that something points at."""
    if isinstance(node, list):
        for item in node:
            yield from descriptors(item)
    elif isinstance(node, dict):
        if isinstance(node.get("digest"), str) and isinstance(node.get("mediaType"), str):
            yield node["digest"], node["mediaType"]
        for item in node.values():
            yield from descriptors(item)


def documents(place):
    for name, content in contents(place):
        try:
            document = json.loads(content)
        except ValueError:
            continue
        if isinstance(document, dict):
            yield name, "sha256:" + hashlib.sha256(content).hexdigest(), document


def main():
    directory, places = sys.argv[1], sys.argv[2:]
    validators = {name: validator(directory, file) for name, file in SCHEMAS.items()}
    counts, problems = dict.fromkeys(SCHEMAS, 0), []
    for place in places:
        found = list(documents(place))
        types = {digest: media_type for _, _, document in found for digest, media_type in descriptors(document)}
        for name, digest, document in found:
            media_type = types.get(digest) or document.get("mediaType")
            kind = NAMES.get(re.split("[/ ]", name)[-1]) or KINDS.get(media_type)
            if kind is None:
                continue
            counts[kind] += 1
            for error in validators[kind].iter_errors(document):
                where = "/".join(str(part) for part in error.absolute_path)
                problems.append(f"{name} ({kind}) at /{where}: {error.message}")
    print(" ".join(f"{name}={count}" for name, count in counts.items()))
    if problems:
        sys.exit("\n".join(problems))


main()
