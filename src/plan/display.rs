//! A plan as people read it, and as the test corpus keeps it: one paragraph a step, nothing left out that a key needs.

use std::fmt::{self, Display, Formatter};

use super::{
    CommandForm, CopyFrom, CopyInstruction, CopyOp, Link, MountSource, Network, Op, Parents, Plan, RunOp, Security,
};
use super::{Source, Step, StepId};
use crate::dockerfile::mount::{Mount, Sharing};

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            write!(f, "{step}")?;
        }
        let results: Vec<String> = self.results().map(|result| result.step.to_string()).collect();
        write!(f, "result {}", results.join(" "))?;
        if let Some(epoch) = self.epoch {
            write!(f, " at {epoch}")?;
        }
        writeln!(f)
    }
}

impl Display for StepId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.index())
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.title)?;
        let inputs: Vec<String> = self.inputs.iter().map(StepId::to_string).collect();
        if !inputs.is_empty() {
            write!(f, " <- {}", inputs.join(" "))?;
        }
        writeln!(f)?;
        match &self.op {
            Op::Scratch(_) => Ok(()),
            Op::Base(key) => writeln!(f, "    platform {}", key.platform),
            Op::Run(run) => write!(f, "{run}"),
            Op::Copy(copy) => write!(f, "{copy}"),
            Op::Workdir(workdir) => {
                writeln!(f, "    make {}{}", workdir.path, labelled(" for ", &workdir.user))
            }
        }
    }
}

impl Display for RunOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let form = match self.form {
            CommandForm::Shell => "",
            CommandForm::Exec => " (exec form)",
        };
        writeln!(f, "    run {:?}{form}", self.args)?;
        if let Some(file) = &self.heredoc_file {
            writeln!(f, "    file {} {:?}", file.path(), file.content)?;
        }
        let pairs = |pairs: &[(String, String)]| {
            pairs.iter().map(|(name, value)| format!(" {name}={value:?}")).collect::<String>()
        };
        writeln!(f, "    env{}", pairs(&self.env))?;
        if !self.proxy_env.is_empty() {
            let masked: Vec<(String, String)> =
                self.proxy_env.iter().map(|(name, value)| (name.clone(), without_password(value))).collect();
            writeln!(f, "    proxy{}", pairs(&masked))?;
        }
        let network = match self.network {
            Network::Default => "",
            Network::None => " without network",
            Network::Host => " with the host's network",
        };
        let security = match self.security {
            Security::Sandbox => "",
            Security::Insecure => " insecure",
        };
        let user = labelled(" as ", &self.user);
        writeln!(f, "    in {}{user} on {}{network}{security}", self.cwd, self.hostname)?;
        for device in &self.devices {
            writeln!(f, "    device {}{}", device.name, if device.required { ", required" } else { "" })?;
        }
        for mount in &self.mounts {
            writeln!(f, "    mount {} of {}", MountText(&mount.mount), mount.source)?;
        }
        Ok(())
    }
}

impl Display for MountSource {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            MountSource::Context => f.write_str("the context"),
            MountSource::Step(step) => write!(f, "{step}"),
            MountSource::NamedContext(name) => write!(f, "context {name}"),
            MountSource::Empty => f.write_str("nothing"),
        }
    }
}

struct MountText<'a>(&'a Mount);

impl Display for MountText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mount = self.0;
        let sharing = match mount.sharing {
            Sharing::Shared => None,
            Sharing::Private => Some("private"),
            Sharing::Locked => Some("locked"),
        };
        let parts = [
            mount.kind.name().to_owned(),
            option("target", mount.target.as_ref()),
            option("source", mount.source.as_ref()),
            option("id", mount.id.as_ref()),
            option("env", mount.env.as_ref()),
            option("sharing", sharing),
            option("size", mount.size),
            option("mode", mount.mode.map(|mode| format!("{mode:04o}"))),
            option("uid", mount.uid),
            option("gid", mount.gid),
        ];
        f.write_str(&parts.concat())?;
        let read_only = if mount.read_only.unwrap_or_default() { " ro" } else { " rw" };
        let required = if mount.required { " required" } else { "" };
        write!(f, "{read_only}{required}")
    }
}

impl Display for CopyOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = match self.instruction {
            CopyInstruction::Copy => "copy",
            CopyInstruction::Add => "add",
        };
        writeln!(f, "    {name} to {} from {}", self.destination, self.from)?;
        for source in &self.sources {
            writeln!(f, "    source {source}")?;
        }
        let mut flags: Vec<String> = Vec::new();
        flags.extend(self.chown.as_ref().map(|chown| format!("chown={chown}")));
        flags.extend(self.chmod.as_ref().map(|chmod| format!("chmod={chmod}")));
        flags.extend((self.link == Link::Independent).then(|| "link".to_owned()));
        flags.extend((self.parents == Parents::Keep).then(|| "parents".to_owned()));
        flags.extend(self.exclude.iter().map(|pattern| format!("exclude={pattern}")));
        flags.extend(self.checksum.as_ref().map(|checksum| format!("checksum={checksum}")));
        flags.extend(self.keep_git_dir.map(|keep| format!("keep-git-dir={keep}")));
        flags.extend(self.unpack.map(|unpack| format!("unpack={unpack}")));
        if !flags.is_empty() {
            writeln!(f, "    {}", flags.join(" "))?;
        }
        Ok(())
    }
}

impl Display for CopyFrom {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            CopyFrom::Context => f.write_str("the context"),
            CopyFrom::Step(step) => write!(f, "{step}"),
            CopyFrom::NamedContext(name) => write!(f, "context {name}"),
        }
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Source::Path(path) => write!(f, "path {path:?}"),
            Source::Url(url) => write!(f, "url {url:?}"),
            Source::Git(reference) => write!(f, "git {:?}", reference.to_string()),
            Source::Inline { name, content } => write!(f, "inline {name} {content:?}"),
        }
    }
}

fn option(name: &str, value: Option<impl Display>) -> String {
    value.map(|value| format!(" {name}={value}")).unwrap_or_default()
}

fn labelled(label: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{label}{text}") }
}

/// The address of a proxy as people may see it: who uses it, and with which password, is in it as well.
fn without_password(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").map_or(("", address), |(scheme, rest)| (scheme, rest));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    match authority.rfind('@') {
        Some(at) => {
            let separator = if scheme.is_empty() { "" } else { "://" };
            format!("{scheme}{separator}***{}", &rest[at..])
        }
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_a_proxy_is_not_shown() {
        for (address, shown) in [
            ("http://me:secret@proxy:3128/x", "http://***@proxy:3128/x"),
            ("me:se@cret@proxy", "***@proxy"),
            ("http://proxy:3128/a@b", "http://proxy:3128/a@b"),
            ("localhost,.example", "localhost,.example"),
        ] {
            assert_eq!(without_password(address), shown);
        }
    }
}
