//! What enters a step's key, all of it, and what must not.
//!
//! | step | enters | does not enter, and why |
//! |---|---|---|
//! | scratch | platform | |
//! | base | platform, diffIDs of its layers | name, tag, manifest: the same layers under another name are the same files; the config acts through the steps' own fields |
//! | RUN | key of the step before; arguments, script, environment (ENV and ARG), working directory, user, host name, network, security; for each mount kind, id, target, options and the content of what it reads | proxy variables, secret values, sharing of caches, extra hosts, name servers, whether the default network is a private one, resource limits: they must not change what a correct command makes |
//! | COPY, ADD | key of the step before (not for `--link`); destination, owner, mode, options; paths, types, modes, owners, links and content of what is copied | modification times: a fresh checkout has others; host paths; the text of the instruction: `COPY $A` must follow `A` |
//! | WORKDIR | key of the step before; path, user | |
//!
//! A root file system that a step continues enters by *key*; what COPY, ADD and mounts read enters by *content*, so a
//! stage that was rebuilt to the same bytes does not run its readers again. Every structure is taken apart by name, so
//! that a new field does not compile until its place in this table is decided.

use std::collections::BTreeMap;

use crate::digest::{Digest, Frame};
use crate::image::platform::Platform;
use crate::plan::{
    CopyInstruction, CopyOp, Device, HeredocFile, Link, Mount, MountKind, Network, Parents, RunOp, Security, Source,
    WorkdirOp,
};
use crate::store::Evidence;

/// A step's key, and what entered it in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The key.
    pub digest: Digest,
    /// Names and values that a miss can be explained with, in the order in which people should hear of them.
    pub ingredients: Vec<(String, String)>,
    /// What of the files that were read is remembered besides.
    pub evidence: Evidence,
}

impl Key {
    fn new(digest: Digest, ingredients: Vec<(String, String)>) -> Key {
        Key { digest, ingredients, evidence: Evidence::default() }
    }

    /// The same with what people call the place that a copy is from.
    pub fn with_source(mut self, name: String) -> Key {
        if let Some((_, value)) = self.ingredients.iter_mut().find(|(known, _)| known == FROM) {
            *value = name;
        }
        self
    }

    /// The same with what a build as a whole is told, which is in the key by way of what the step continues and reads.
    pub fn with_settings(mut self, platform: &Platform, reproducible: Switch) -> Key {
        self.ingredients.push((PLATFORM.to_owned(), platform.to_string()));
        self.ingredients.push((REPRODUCIBLE.to_owned(), reproducible.word()));
        self
    }
}

/// Which names ingredients have: what has another number here is compared by the names that both know. Nothing of it is
/// part of a key.
pub const WORDS: u32 = 1;
/// The ingredient that stands for the step before.
pub const PARENT: &str = "the step before";
/// The ingredient that stands for the image that a base's name meant.
pub const DIGEST: &str = "digest";
/// The ingredient that stands for the files that were read.
pub const FILES: &str = "files";
/// What the ingredients begin with that stand for the files of one mount.
pub const FILES_OF: &str = "files of the ";
/// What the ingredients begin with that stand for variables.
pub const VARIABLE: &str = "variable ";
/// The name of a base image.
pub const BASE: &str = "base";
/// The platform.
pub const PLATFORM: &str = "platform";
/// Where a copy goes.
pub const DESTINATION: &str = "destination";
/// What was named to be copied: what it is counts, not how it is called.
pub const SOURCES: &str = "source";
/// Where that was looked up.
pub const FROM: &str = "--from";
/// The permissions that a copy gives.
pub const MODE: &str = "--chmod";
/// Whether times tell when something was made.
pub const REPRODUCIBLE: &str = "--reproducible";
/// The value of what is switched on.
pub const ON: &str = "on";
/// The value of what is not.
pub const OFF: &str = "off";

/// Whether something is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

impl Switch {
    fn word(self) -> String {
        match self {
            Switch::On => ON,
            Switch::Off => OFF,
        }
        .to_owned()
    }
}

/// The key of `FROM scratch`.
pub fn scratch(platform: &Platform) -> Key {
    let platform = platform.to_string();
    let digest = Frame::new("rbuild.scratch.1").text("platform", &platform).finish();
    Key::new(digest, vec![(PLATFORM.to_owned(), platform)])
}

/// The key of a base image; its digest only explains.
pub fn base(name: &str, platform: &Platform, diff_ids: &[Digest], digest: Option<&Digest>) -> Key {
    let platform = platform.to_string();
    let layers: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
    let key = Frame::new("rbuild.base.1")
        .text("platform", &platform)
        .list("layers", layers.iter().map(String::as_str))
        .finish();
    let mut ingredients = vec![(BASE.to_owned(), name.to_owned()), (PLATFORM.to_owned(), platform)];
    // One reason is enough: with the digest the layers change.
    ingredients.push(match digest {
        Some(digest) => (DIGEST.to_owned(), digest.short()),
        None => ("layers of the base".to_owned(), Digest::of(layers.join(" ").as_bytes()).short()),
    });
    Key::new(key, ingredients)
}

/// The key of RUN; `contents` are the digests of what the mounts read, in their order.
pub fn run(op: &RunOp, parent: &Digest, contents: &[Option<Digest>]) -> Key {
    let RunOp {
        args,
        heredoc_file,
        env,
        proxy_env: _,
        cwd,
        user,
        hostname,
        mounts,
        network,
        security,
        devices,
        form: _,
        command_text,
    } = op;
    let mut frame = Frame::new("rbuild.run.1");
    frame.digest("parent", parent).list("args", args.iter().map(String::as_str));
    let mut ingredients = vec![("command".to_owned(), command_text.clone())];
    if let Some(HeredocFile { name, content }) = heredoc_file {
        frame.text("script name", name).text("script", content);
        ingredients.push(("script".to_owned(), content.clone()));
    }
    let pairs: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    frame.list("env", pairs.iter().map(String::as_str));
    frame.text("cwd", cwd).text("user", user).text("hostname", hostname);
    frame.text("network", network_name(*network)).text("security", security_name(*security));
    ingredients.extend(env.iter().map(|(name, value)| (format!("{VARIABLE}{name}"), value.clone())));
    let settings = [("working directory", cwd), ("user", user), ("host name", hostname)];
    ingredients.extend(settings.map(|(name, value)| (name.to_owned(), value.clone())));
    ingredients.push(("network".to_owned(), network_name(*network).to_owned()));
    ingredients.push(("security".to_owned(), security_name(*security).to_owned()));
    for Device { name, required } in devices {
        frame.text("device", name).text("device is", if *required { "required" } else { "optional" });
        ingredients.push((format!("device {name}"), if *required { "required" } else { "optional" }.to_owned()));
    }
    frame.number("mounts", mounts.len() as u64);
    for (number, (resolved, name)) in mounts.iter().zip(mount_names(op)).enumerate() {
        let content = contents.get(number).copied().flatten();
        frame.digest("mount", &mount(&resolved.mount, content.as_ref()));
        let files = files_of_mount(&name);
        ingredients.push((name, mount_options(&resolved.mount)));
        if let Some(content) = content {
            ingredients.push((files, content.short()));
        }
    }
    ingredients.push((PARENT.to_owned(), parent.short()));
    Key::new(frame.finish(), ingredients)
}

/// What people call a mount: `cache mount at /root/.cache`.
fn mount_name(mount: &Mount) -> String {
    let kind = mount.kind.name();
    if let Some(target) = mount.target.as_ref().filter(|target| !target.is_empty()) {
        return format!("{kind} mount at {target}");
    }
    match &mount.env {
        Some(env) => format!("{kind} in ${env}"),
        None => format!("{kind} mount"),
    }
}

/// What people call the mounts of a command; one that has an earlier one's name has a number, too.
pub fn mount_names(op: &RunOp) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut name = |mount: &Mount| {
        let name = mount_name(mount);
        let count = seen.entry(name.clone()).or_default();
        *count += 1;
        if *count == 1 { name } else { format!("{name} ({count})") }
    };
    op.mounts.iter().map(|resolved| name(&resolved.mount)).collect()
}

/// The ingredient that stands for the files of a mount of this name.
pub fn files_of_mount(name: &str) -> String {
    format!("{FILES_OF}{name}")
}

/// What of a mount's options is in the key, but for its kind, its target, what it reads, and what is so anyway.
fn mount_options(mount: &Mount) -> String {
    let option = |name: &str, value: Option<String>| value.map(|value| format!("{name}={value}"));
    let is_directory = |source: &String| source != "/";
    let access = match (mount.kind, mount.read_only) {
        (MountKind::Bind, Some(false)) => Some("readwrite".to_owned()),
        (MountKind::Bind, Some(true) | None) => Some("readonly".to_owned()),
        (MountKind::Cache, Some(true)) => Some("readonly".to_owned()),
        (MountKind::Cache | MountKind::Tmpfs | MountKind::Secret | MountKind::Ssh, Some(_) | None) => None,
    };
    let options = [
        option("id", mount.id.clone()),
        option("source", mount.source.clone().filter(is_directory)),
        option("mode", mount.mode.map(|mode| format!("{mode:04o}"))),
        option("uid", mount.uid.map(|uid| uid.to_string())),
        option("gid", mount.gid.map(|gid| gid.to_string())),
        access,
        // Without a target, the variable is what the mount is called by.
        option("env", mount.env.clone().filter(|_| mount.target.is_some())),
        mount.required.then(|| "required".to_owned()),
    ];
    options.into_iter().flatten().collect::<Vec<_>>().join(",")
}

fn mount(mount: &Mount, content: Option<&Digest>) -> Digest {
    let Mount { kind, target, source, from: _, id, read_only, sharing: _, size: _, mode, uid, gid, env, required } =
        mount;
    let target = target.clone().unwrap_or_default();
    let mut frame = Frame::new("rbuild.mount.1");
    frame.text("kind", kind.name()).text("target", &target).optional("env", env.as_deref());
    frame.optional("content", content.map(Digest::to_string).as_deref());
    // For what has content, the path that was read is part of the content; a cache's is where it starts.
    frame.optional("source", source.as_deref());
    let number = |number: &Option<u32>| number.map(|number| number.to_string());
    for (name, value) in [("mode", number(mode)), ("uid", number(uid)), ("gid", number(gid))] {
        frame.optional(name, value.as_deref());
    }
    frame.optional("read-only", read_only.map(|read_only| read_only.to_string()).as_deref());
    // What the id is where none is given follows from the rest.
    let usual = match kind {
        MountKind::Cache => target.as_str(),
        MountKind::Secret => target.rsplit('/').next().unwrap_or_default(),
        MountKind::Ssh => "default",
        MountKind::Bind | MountKind::Tmpfs => "",
    };
    if let Some(id) = id.as_deref().filter(|id| *id != usual) {
        frame.text("id", id);
    }
    if *required {
        frame.text("required", "true");
    }
    frame.finish()
}

fn network_name(network: Network) -> &'static str {
    match network {
        Network::Default => "default",
        Network::None => "none",
        Network::Host => "host",
    }
}

fn security_name(security: Security) -> &'static str {
    match security {
        Security::Sandbox => "sandbox",
        Security::Insecure => "insecure",
    }
}

/// The key of COPY and ADD; `content` is of everything that is copied, under the names that it has at its source.
pub fn copy(op: &CopyOp, parent: &Digest, content: &Digest) -> Key {
    let CopyOp {
        instruction,
        from: _,
        sources: _,
        destination,
        workdir,
        chown,
        chmod,
        link,
        parents,
        exclude,
        checksum: _,
        keep_git_dir,
        unpack,
    } = op;
    let (instruction, keyword) = match instruction {
        CopyInstruction::Copy => ("copy", "COPY"),
        CopyInstruction::Add => ("add", "ADD"),
    };
    let mut frame = Frame::new("rbuild.copy.1");
    // A linked layer does not depend on what is below, unless names of owners are looked up there; what comes after it
    // does depend, and gets the parent back in `chain`.
    let depends_on_parent = match link {
        Link::Follow => true,
        Link::Independent => op.names_owner(),
    };
    frame.text("link", if *link == Link::Follow { "no" } else { "yes" });
    frame.optional("parent", depends_on_parent.then(|| parent.to_string()).as_deref());
    frame.text("instruction", instruction).text("destination", destination).text("workdir", workdir);
    frame.optional("chown", chown.as_deref()).optional("chmod", chmod.as_deref());
    frame.text("parents", if *parents == Parents::Keep { "keep" } else { "drop" });
    frame.list("exclude", exclude.iter().map(String::as_str));
    let flag = |flag: &Option<bool>| flag.map(|flag| flag.to_string());
    frame.optional("keep git dir", flag(keep_git_dir).as_deref()).optional("unpack", flag(unpack).as_deref());
    frame.digest("content", content);
    let mut ingredients = copy_in_words(op, keyword, content);
    if depends_on_parent {
        ingredients.push((PARENT.to_owned(), parent.short()));
    }
    Key::new(frame.finish(), ingredients)
}

/// What people are told of a copy, in the order in which they should hear of it.
fn copy_in_words(op: &CopyOp, keyword: &str, content: &Digest) -> Vec<(String, String)> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let flag = |flag: &Option<bool>| flag.map(|flag| flag.to_string());
    let linked = match op.link {
        Link::Independent => Switch::On,
        Link::Follow => Switch::Off,
    };
    let with_parents = match op.parents {
        Parents::Keep => Switch::On,
        Parents::Drop => Switch::Off,
    };
    let flags = [
        (DESTINATION, op.destination.clone()),
        ("instruction", keyword.to_owned()),
        ("--link", linked.word()),
        ("--chown", text(&op.chown)),
        (MODE, text(&op.chmod)),
        ("--parents", with_parents.word()),
        ("--exclude", op.exclude.join(" ")),
        ("--keep-git-dir", flag(&op.keep_git_dir).unwrap_or_default()),
        ("--unpack", flag(&op.unpack).unwrap_or_default()),
        ("working directory", op.workdir.clone()),
        (SOURCES, op.sources.iter().map(Source::shown).collect::<Vec<_>>().join(" ")),
        // Told before the files that are others because of it; only the plan knows the name.
        (FROM, String::new()),
        (FILES, content.short()),
    ];
    flags.map(|(name, value)| (name.to_owned(), value)).into()
}

/// The key of the root file system after a copy: what later steps continue.
pub fn chain(parent: &Digest, copied: &Digest) -> Digest {
    Frame::new("rbuild.chain.1").digest("parent", parent).digest("layer", copied).finish()
}

/// The key of WORKDIR.
pub fn workdir(op: &WorkdirOp, parent: &Digest) -> Key {
    let WorkdirOp { path, user } = op;
    let digest = Frame::new("rbuild.workdir.1").digest("parent", parent).text("path", path).text("user", user).finish();
    let ingredients =
        vec![("path".to_owned(), path.clone()), ("user".to_owned(), user.clone()), (PARENT.to_owned(), parent.short())];
    Key::new(digest, ingredients)
}
