//! `--reproducible`: the same image whoever builds it, where and when.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::bases::Base;
use crate::harness::{Files, Rbuild, Run, User, finish, has_program, succeed, suite_user};
use crate::image::Image;

/// Each kind of step, and files of every kind that a layer can hold; what a command sees of times and modes is in the
/// image, too.
const DOCKERFILE: &str = r#"FROM scratch AS busybox
ADD rootfs.tar.xz /
FROM busybox AS made
RUN umask 027; mkdir -p /made/dir; echo 1 > /made/dir/z; ln /made/dir/z /made/dir/a; ln -s z /made/dir/link; mkfifo /made/pipe; \
    dd if=/dev/zero of=/made/sparse bs=1 count=1 seek=1000000 2>/dev/null; chown -h 5:6 /made/dir/link /made/dir/z; \
    chmod 4750 /made/dir/z; touch -d '2001-02-03 04:05:06' /made/old; echo temporary > /tmp/gone; rm /tmp/gone; rm /etc/group
FROM busybox
ARG SOURCE_DATE_EPOCH
WORKDIR /work/deep
COPY . /src/
COPY --link src/a /linked/
COPY --from=made /made /made
COPY <<here /here
text
here
RUN --mount=type=bind,target=/context find /context /src /linked /made /here /work -print0 | sort -z | \
    xargs -0 stat -c '%n %F %a %u:%g %Y' > /seen; echo $SOURCE_DATE_EPOCH > /epoch; rm -r /src/src/b; chmod 600 /src/top
RUN stat -c '%n %Y' /seen /src /made/old > /seen-again; stat -c %a / >> /seen-again
LABEL last=step
"#;

/// A machine that differs from others in all that must not matter.
struct Machine {
    rbuild: Rbuild,
    /// Where the checkout is, and under which umask it is made and built.
    place: &'static str,
    umask: &'static str,
    /// What is written first.
    names: [&'static str; 4],
}

/// Makes files and commits them; `$1` is the umask, `$2` the date of the commit, the rest are names in order.
const CHECKOUT: &str = r#"umask $1; export GIT_COMMITTER_DATE="$2" GIT_AUTHOR_DATE="$2"; shift 2
mkdir -p src; for name in "$@"; do mkdir -p "$(dirname "$name")"; echo "$name" > "$name"; done; chmod u+x top; ln -sfn src/a link
touch -d '1999-01-01' src/a/1
git="git -c safe.directory=* -c user.name=n -c user.email=n@example.com"; $git init -q .; $git add top src; $git commit -qm "$name""#;

impl Machine {
    fn new(user: User, place: &'static str, umask: &'static str, names: [&'static str; 4]) -> Machine {
        Machine { rbuild: Rbuild::new(user), place, umask, names }
    }

    /// Writes the checkout with a commit of this date.
    fn checkout(&self, date: &str) -> Result<Files, String> {
        let context = self.rbuild.context(self.place).file("Dockerfile", DOCKERFILE).file(".dockerignore", ".git");
        fs::copy(Base::Busybox.rootfs()?, context.directory.join("rootfs.tar.xz")).expect("copy the root file system");
        let mut script = Command::new("sh");
        script.args(["-ec", CHECKOUT, "sh", self.umask, date]).args(self.names).current_dir(&context.directory);
        succeed(script.env("HOME", "/nowhere").env("GIT_CONFIG_NOSYSTEM", "1"));
        // Given to root or to a user, which depends on nothing but who runs this.
        let mut modes = Command::new("chmod");
        succeed(modes.args(["644", "Dockerfile", ".dockerignore", "rootfs.tar.xz"]).current_dir(&context.directory));
        Ok(context)
    }

    fn run(&self, context: &Files, arguments: &[&str]) -> Run {
        let mut command = self.rbuild.command_of("sh", ["-c", "umask $0; exec \"$@\"", self.umask]);
        command.arg(self.rbuild.program()).args(["build", "--progress=plain"]).args(arguments).arg(&context.directory);
        finish(command.spawn().expect("start sh"))
    }

    /// The bytes of the archive, and the image in it.
    fn build(&self, context: &Files, arguments: &[&str]) -> (Vec<u8>, PathBuf) {
        let archive = self.rbuild.path("out/image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        self.run(context, &[&["--reproducible", "-t", "example.com/app:1", "-o", &output], arguments].concat())
            .succeeded();
        (fs::read(&archive).expect("read the archive"), archive)
    }
}

/// Two machines that have nothing in common, and the others that this suite can have.
fn machines() -> Vec<Machine> {
    let (forth, back) = (["top", "src/a/1", "src/a/2", "src/b/3"], ["src/b/3", "src/a/2", "src/a/1", "top"]);
    let mut plain = Machine::new(suite_user(), "here", "022", forth);
    plain.rbuild.set_variable("TZ", "UTC");
    let mut other = Machine::new(suite_user(), "some/where/else", "077", back);
    for (name, value) in [("TZ", "Asia/Kolkata"), ("LANG", "tr_TR.UTF-8"), ("RAYON_NUM_THREADS", "1")] {
        other.rbuild.set_variable(name, value);
    }
    let mut machines = vec![plain, other];
    if suite_user() == User::Root {
        machines.push(Machine::new(User::Subuid, "subordinate", "002", back));
        let mut alone = Machine::new(User::NoSubuid, "alone", "027", forth);
        alone.rbuild.set_variable("RBUILD_STORAGE_DRIVER", "copy");
        machines.push(alone);
    }
    machines
}

#[test]
fn one_image_on_every_machine() {
    if !has_program("git") {
        skip!("git is not installed");
    }
    let mut first: Option<Vec<u8>> = None;
    for (number, machine) in machines().into_iter().enumerate() {
        // Later than any clock: what is only cut off at this moment keeps the time at which it was made.
        let (earlier, date) = ("2090-01-02T03:04:05Z", "2091-01-02T03:04:05Z");
        if number % 2 == 1 {
            // What is in the store from builds of other kinds and of other commits does not show.
            let context = match machine.checkout(earlier) {
                Ok(context) => context,
                Err(reason) => skip!("{reason}"),
            };
            machine.run(&context, &[]).succeeded();
            machine.build(&context, &[]);
            fs::remove_dir_all(context.directory.join(".git")).expect("remove the repository");
        }
        let context = match machine.checkout(date) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let (bytes, archive) = machine.build(&context, if number == 1 { &["--jobs=1"] } else { &[] });
        let image = Image::read(&archive);
        assert_eq!(image.config["created"], "2091-01-02T03:04:05Z");
        let place = machine.place;
        assert_eq!(image.content("/seen"), seen(), "{place}");
        let steady = 315_705_600;
        let again = format!("/seen {steady}\n/src {steady}\n/made/old 981173106\n755\n");
        assert_eq!(image.content("/seen-again"), again, "{place}");
        assert_eq!(image.content("/epoch"), "3818545445\n", "{place}");
        match &first {
            None => first = Some(bytes),
            Some(first) => assert!(*first == bytes, "the archive of {place} is another one: {}", image.id),
        }
    }
}

#[test]
fn a_build_without_a_commit_is_dated_1970_and_one_that_cannot_see_it_is_told_what_to_do() {
    let mut rbuild = Rbuild::new(suite_user());
    let context = rbuild.context("dated").file("file", "1\n").file("Dockerfile", "FROM scratch\nCOPY file /\n");
    let archive = rbuild.path("out/image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let flags = ["--reproducible", "-o", &output];
    rbuild.build(&context, &flags).succeeded();
    assert_eq!(Image::read(&archive).config["created"], "1970-01-01T00:00:00Z");
    let context = context.file(".git", "gitdir: /nowhere\n").file(".dockerignore", ".git\n");
    rbuild.build(&context, &flags).failed(1).says("hint: SOURCE_DATE_EPOCH");
    rbuild.set_variable("SOURCE_DATE_EPOCH", "86400");
    rbuild.build(&context, &flags).succeeded();
    assert_eq!(Image::read(&archive).config["created"], "1970-01-02T00:00:00Z");
}

/// What the command sees: nothing of a clock, a umask or a checkout.
fn seen() -> String {
    let steady = 315_705_600;
    let (file, directory) = ("regular file", "directory");
    let mut lines = Vec::new();
    for root in ["/context", "/src"] {
        for (path, kind, mode) in [
            ("", directory, 755),
            ("/.dockerignore", file, 644),
            ("/Dockerfile", file, 644),
            ("/link", "symbolic link", 777),
            ("/rootfs.tar.xz", file, 644),
            ("/src", directory, 755),
            ("/src/a", directory, 755),
            ("/src/a/1", file, 644),
            ("/src/a/2", file, 644),
            ("/src/b", directory, 755),
            ("/src/b/3", file, 644),
            ("/top", file, 755),
        ] {
            lines.push(format!("{root}{path} {kind} {mode} 0:0 {steady}"));
        }
    }
    for (path, kind, mode, owner, time) in [
        ("/here", file, 644, "0:0", steady),
        ("/linked", directory, 755, "0:0", steady),
        ("/linked/1", file, 644, "0:0", steady),
        ("/linked/2", file, 644, "0:0", steady),
        ("/made", directory, 755, "0:0", steady),
        ("/made/dir", directory, 750, "0:0", steady),
        ("/made/dir/a", file, 4750, "5:6", steady),
        ("/made/dir/link", "symbolic link", 777, "5:6", steady),
        ("/made/dir/z", file, 4750, "5:6", steady),
        ("/made/old", "regular empty file", 640, "0:0", 981_173_106),
        ("/made/pipe", "fifo", 640, "0:0", steady),
        ("/made/sparse", file, 640, "0:0", steady),
        ("/work", directory, 755, "0:0", steady),
        ("/work/deep", directory, 755, "0:0", steady),
    ] {
        lines.push(format!("{path} {kind} {mode} {owner} {time}"));
    }
    lines.sort();
    lines.join("\n") + "\n"
}
