"""What is built: contexts, edits between builds, and what is timed."""

import random
import time


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

    def __init__(self, name, title, write, task, before=None, bare=None, emptied=False):
        """`write` makes the context, `task` gives the commands that are timed, `before` is done before each run and not
        timed, `bare` is a script that does the least of it; `emptied`: before each run the registry loses what is large."""
        self.name, self.title, self.write, self.task, self.before, self.bare = name, title, write, task, before, bare
        self.emptied = emptied


def write_small(context, bases, scale):
    (context / "Dockerfile").write_text(
        f"FROM {bases['busybox']}\nENV MODE=production\nWORKDIR /srv\nCOPY package.list .\n"
        "RUN cp package.list installed\nCOPY . .\nEXPOSE 8080\nCMD [\"sh\"]\n"
    )
    (context / "package.list").write_text("one\ntwo\n")
    for number in range(40):
        (context / f"module{number}.txt").write_text(f"module {number}\n" * 20)


def write_runs(context, bases, scale):
    steps = "".join(f"RUN echo {number} > /file{number}\n" for number in range(20))
    (context / "Dockerfile").write_text(f"FROM {bases['busybox']}\n{steps}")


def writing(scale):
    """A shell command that writes 30,000 files of 16 KiB: 300 of text, and 99 copies of these."""
    files, copies = 300, max(1, int(99 * scale))
    return f"mkdir d0; i=0; while [ $i -lt {files} ]; do yes \"$i jumps over the lazy dog\" | head -c 16384 > d0/f$i; " \
           f"i=$((i+1)); done; i=1; while [ $i -le {copies} ]; do cp -r d0 d$i; i=$((i+1)); done"


def write_writing(context, bases, scale):
    (context / "Dockerfile").write_text(f"FROM {bases['busybox']}\nRUN mkdir /w && cd /w && {writing(scale)}\n")


def working(scale):
    """A shell command that computes for about a second."""
    return f"head -c {int(250_000_000 * scale)} /dev/zero | sha256sum"


def write_stages(context, bases, scale):
    """Eight stages that know nothing of each other."""
    base = bases["busybox"]
    stages = "".join(f"FROM {base} AS s{number}\nRUN echo {number} > /n; {working(scale)} > /sum{number}\n"
                     for number in range(8))
    copies = "".join(f"COPY --from=s{number} /sum{number} /\n" for number in range(8))
    (context / "Dockerfile").write_text(f"{stages}FROM {base}\n{copies}")


def write_node(context, bases, scale):
    """An application on node's base, of some 200 MB; what `npm install` would fetch is made."""
    install = "i=0; while [ $i -lt 60 ]; do mkdir -p node_modules/m$i; j=0; while [ $j -lt 50 ]; do " \
              "echo \"module.exports = $i * $j\" > node_modules/m$i/f$j.js; j=$((j+1)); done; i=$((i+1)); done"
    (context / "Dockerfile").write_text(
        f"FROM {bases['node']}\nWORKDIR /app\nCOPY package.json ./\nRUN {install}\nCOPY . .\nEXPOSE 3000\n"
        "CMD [\"node\", \"app.js\"]\n")
    (context / "package.json").write_text('{"name": "app", "version": "1.0.0"}\n')
    (context / "app.js").write_text("require('http').createServer((_, answer) => answer.end('ok')).listen(3000)\n")


def write_many(context, bases, scale):
    generator = random.Random(20)
    (context / "Dockerfile").write_text(f"FROM {bases['busybox']}\nCOPY tree /tree\n")
    files = max(100, int(100_000 * scale))
    for number in range(files):
        directory = context / "tree" / f"d{number // 5000:03}" / f"e{number // 100 % 50:02}"
        if number % 100 == 0:
            directory.mkdir(parents=True)
        write_words(directory / f"f{number}.txt", generator.randrange(500, 3500), generator, WORDS)


def write_large(context, bases, scale):
    generator = random.Random(21)
    (context / "Dockerfile").write_text(f"FROM {bases['busybox']}\nCOPY data /data\n")
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


def edit_all(context, number):
    """Another start of each large file, so that no layer is anywhere yet."""
    for part in (context / "data").iterdir():
        with open(part, "r+b") as file:
            file.write(f"{number} at {time.time_ns()}".encode())


def edit_app(context, number):
    """As `edit`, of the node application."""
    (context / "app.js").write_text(f"// {number} at {time.time_ns()}\n")


def workloads(scale):
    """All of them, with what is timed: a function of the builder, the context, a name and the number of the run."""
    cached = lambda builder, context, name, number: builder.build(context, name, False)
    fresh = lambda builder, context, name, number: builder.build(context, name, True)
    archive = lambda builder, context, name, number: builder.archive(context, name, True, "gzip")
    archive_zstd = lambda builder, context, name, number: builder.archive(context, name, True, "zstd")
    archive_cached = lambda builder, context, name, number: builder.archive(context, name, False, "gzip")
    push_again = lambda builder, context, name, number: builder.push(context, name)
    # Another repository each time, so that nothing is there but what the registry shares by itself.
    push = lambda builder, context, name, number: builder.push(context, f"{name.rsplit(':', 1)[0]}-{number}:1")
    in_turns = f"for n in 0 1 2 3; do ({working(scale)}) & ({working(scale)}) & wait; done"
    return [
        Workload("noop", "build again, nothing changed", write_small, cached),
        Workload("edit", "build again after an edit of one file", write_small, cached, edit),
        Workload("runs", "20 small RUN steps", write_runs, fresh),
        Workload("many", "COPY of 100,000 small files, to an archive", write_many, archive,
                 bare='tar --sort=name -cf - tree | gzip -6 > "$OUT/tar.gz"'),
        Workload("many-noop", "100,000 small files, nothing changed", write_many, cached,
                 bare="find tree -printf '%s %T@\\n'"),
        Workload("many-edit", "100,000 small files, one edited", write_many, cached, edit_one_of_many),
        Workload("many-edit-archive", "the same, to an archive", write_many, archive_cached, edit_one_of_many),
        Workload("large", "COPY of 1 GB, to an archive (gzip)", write_large, archive,
                 bare='tar -cf - data | tee "$OUT/tar" | sha256sum'),
        Workload("large-zstd", "COPY of 1 GB, to an archive (zstd)", write_large, archive_zstd,
                 bare='tar -cf - data | zstd -q -T0 -3 > "$OUT/tar.zst"'),
        Workload("writing", "RUN that writes 30,000 files, 500 MB", write_writing, fresh,
                 bare=f'cd "$OUT" && busybox sh -c \'{writing(scale)}\''),
        Workload("stages", "8 independent stages of equal work", write_stages, fresh,
                 bare=in_turns.replace("head", "busybox head").replace("sha256sum", "busybox sha256sum")),
        Workload("node-noop", "node application, nothing changed", write_node, cached),
        Workload("node-edit", "node application, app.js edited", write_node, cached, edit_app),
        Workload("push", "push to another repository", write_small, push),
        Workload("push-ready", "1 GB that is built already, pushed", write_large, push_again, emptied=True),
        Workload("push-large", "build of 1 GB, pushed", write_large, push, edit_all),
        Workload("push-large-noop", "build of 1 GB, pushed, nothing changed", write_large, push_again),
    ]
