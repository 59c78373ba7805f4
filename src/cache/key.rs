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

use crate::digest::{Digest, Frame};
use crate::image::platform::Platform;
use crate::plan::{
    CopyInstruction, CopyOp, Device, HeredocFile, Link, Mount, MountKind, Network, Parents, RunOp, Security, WorkdirOp,
};

/// A step's key, and what entered it in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The key.
    pub digest: Digest,
    /// Names and values that a miss can be explained with, in the order in which people should hear of them.
    pub ingredients: Vec<(String, String)>,
}

/// The ingredient that stands for the step before.
pub const PARENT: &str = "the step before";
/// The ingredient that stands for the image that a base's name meant.
pub const DIGEST: &str = "digest";
/// The ingredient that stands for the files that were read.
pub const FILES: &str = "files";

/// The key of `FROM scratch`.
pub fn scratch(platform: &Platform) -> Key {
    let platform = platform.to_string();
    let digest = Frame::new("rbuild.scratch.1").text("platform", &platform).finish();
    Key { digest, ingredients: vec![("platform".to_owned(), platform)] }
}

/// The key of a base image; its digest only explains.
pub fn base(name: &str, platform: &Platform, diff_ids: &[Digest], digest: Option<&Digest>) -> Key {
    let platform = platform.to_string();
    let layers: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
    let key = Frame::new("rbuild.base.1")
        .text("platform", &platform)
        .list("layers", layers.iter().map(String::as_str))
        .finish();
    let mut ingredients = vec![("base".to_owned(), name.to_owned()), ("platform".to_owned(), platform)];
    // One reason is enough: with the digest the layers change.
    ingredients.push(match digest {
        Some(digest) => (DIGEST.to_owned(), digest.short()),
        None => ("layers of the base".to_owned(), Digest::of(layers.join(" ").as_bytes()).short()),
    });
    Key { digest: key, ingredients }
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
    if let Some(HeredocFile { name, content }) = heredoc_file {
        frame.text("script name", name).text("script", content);
    }
    let pairs: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    frame.list("env", pairs.iter().map(String::as_str));
    frame.text("cwd", cwd).text("user", user).text("hostname", hostname);
    frame.text("network", network_name(*network)).text("security", security_name(*security));
    let mut ingredients = vec![("command".to_owned(), command_text.clone())];
    ingredients.extend(env.iter().map(|(name, value)| (format!("variable {name}"), value.clone())));
    let settings = [("working directory", cwd), ("user", user), ("host name", hostname)];
    ingredients.extend(settings.map(|(name, value)| (name.to_owned(), value.clone())));
    ingredients.push(("network".to_owned(), network_name(*network).to_owned()));
    ingredients.push(("security".to_owned(), security_name(*security).to_owned()));
    for Device { name, required } in devices {
        frame.text("device", name).text("device is", if *required { "required" } else { "optional" });
        ingredients.push((format!("device {name}"), if *required { "required" } else { "optional" }.to_owned()));
    }
    frame.number("mounts", mounts.len() as u64);
    for (number, resolved) in mounts.iter().enumerate() {
        let content = contents.get(number).copied().flatten();
        let (digest, target) = mount(&resolved.mount, content.as_ref());
        frame.digest("mount", &digest);
        if let Some(id) = &resolved.mount.id {
            ingredients.push((format!("id of the mount at {target}"), id.clone()));
        }
        ingredients.push((format!("mount at {target}"), digest.short()));
    }
    ingredients.push((PARENT.to_owned(), parent.short()));
    Key { digest: frame.finish(), ingredients }
}

fn mount(mount: &Mount, content: Option<&Digest>) -> (Digest, String) {
    let Mount { kind, target, source, from: _, id, read_only, sharing: _, size: _, mode, uid, gid, env, required } =
        mount;
    let target = target.clone().unwrap_or_default();
    let mut frame = Frame::new("rbuild.mount.1");
    frame.text("kind", mount_kind_name(*kind)).text("target", &target).optional("env", env.as_deref());
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
    (frame.finish(), target)
}

fn mount_kind_name(kind: MountKind) -> &'static str {
    match kind {
        MountKind::Bind => "bind",
        MountKind::Cache => "cache",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Secret => "secret",
        MountKind::Ssh => "ssh",
    }
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
    let instruction = match instruction {
        CopyInstruction::Copy => "copy",
        CopyInstruction::Add => "add",
    };
    let mut frame = Frame::new("rbuild.copy.1");
    // A linked layer does not depend on what is below, unless names of owners are looked up there; what comes after it
    // does depend, and gets the parent back in `chain`.
    let depends_on_parent = match link {
        Link::Follow => true,
        Link::Independent => chown.as_ref().is_some_and(|owner| owner.contains(|letter: char| letter.is_alphabetic())),
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
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut ingredients = vec![
        ("destination".to_owned(), destination.clone()),
        ("owner".to_owned(), text(chown)),
        ("mode".to_owned(), text(chmod)),
        (FILES.to_owned(), content.short()),
    ];
    if depends_on_parent {
        ingredients.push((PARENT.to_owned(), parent.short()));
    }
    Key { digest: frame.finish(), ingredients }
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
    Key { digest, ingredients }
}
