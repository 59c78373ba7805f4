//! A command line of kaniko's executor, as the `build` that does the same.
//!
//! The rule for its flags: one whose wish is fulfilled anyway is silent; one that cannot be followed and does no harm is
//! told; one on which the result or somebody's trust depends is an error.

use std::path::PathBuf;

use super::fields::Given;
use super::values::reference;
use super::{InvalidRequest, Request};
use crate::cli::args::{BuildArguments, ExecutorArguments, GlobalArguments, OtherExecutorArguments, Switch};
use crate::cli::environment::Environment;
use crate::image::reference::Reference;

/// Where kaniko's results are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DigestFiles {
    /// The image's digest.
    pub digest: Option<PathBuf>,
    /// Names with the digest.
    pub names: Option<PathBuf>,
    /// Names and tags with the digest.
    pub tagged: Option<PathBuf>,
}

impl DigestFiles {
    fn is_empty(&self) -> bool {
        self.digest.is_none() && self.names.is_none() && self.tagged.is_none()
    }
}

impl Request {
    /// Resolves the flags of `executor`.
    pub(in crate::cli) fn resolve_executor(
        arguments: ExecutorArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Request, InvalidRequest> {
        refuse(&arguments)?;
        let notices = notices(&arguments.other, &arguments);
        let path = |file: &Option<String>| file.as_ref().map(|file| environment.absolute(file));
        let digests = DigestFiles {
            digest: path(&arguments.digest_file),
            names: path(&arguments.image_name_with_digest_file),
            tagged: path(&arguments.image_name_tag_with_digest_file),
        };
        let pushes = !does_not_push(&arguments, environment);
        if pushes && arguments.destination.is_empty() && !arguments.dryrun.is_on() {
            return Err(InvalidRequest::Contradiction {
                problem: "there is nowhere to push to".to_owned(),
                hint: "name a --destination, or leave pushing out with --no-push".to_owned(),
            });
        }
        let writes = arguments.tar_path.is_some() || arguments.oci_layout_path.is_some();
        if !pushes && !writes && !digests.is_empty() {
            return Err(InvalidRequest::Contradiction {
                problem: "an image that is neither pushed nor written has no digest yet".to_owned(),
                hint: "give --tar-path or --oci-layout-path, or leave the digest files out".to_owned(),
            });
        }
        let words = words(&arguments, pushes, environment)?;
        let verbosity = level(&arguments.verbosity)?;
        let global = GlobalArguments {
            root: global.root.clone(),
            debug: if verbosity == Level::All { Switch::On } else { global.debug },
        };
        let build = BuildArguments::of_words(&words).map_err(|reason| InvalidRequest::InvalidValue {
            flag: "executor",
            value: words.join(" "),
            reason,
        })?;
        let mut request = Request::resolve(build, &global, environment).map_err(spelled)?;
        request.notices.extend(notices);
        request.digest_files = digests;
        Ok(request)
    }
}

/// What is wrong with a value, with the flag that it was given to.
fn spelled(invalid: InvalidRequest) -> InvalidRequest {
    match invalid {
        InvalidRequest::InvalidValue { flag, value, reason } => {
            let flag = match flag {
                "--tag" => "--destination",
                "--platform" => "--custom-platform",
                "--cache-from" | "--cache-to" => "--cache-repo",
                "--ca-cert" => "--registry-certificate",
                other => other,
            };
            InvalidRequest::InvalidValue { flag, value, reason }
        }
        other => other,
    }
}

fn does_not_push(arguments: &ExecutorArguments, environment: &Environment) -> bool {
    let told = environment.variable("KANIKO_NO_PUSH").and_then(|value| value.parse::<Switch>().ok());
    arguments.no_push.is_on() || told.is_some_and(Switch::is_on)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    All,
    Normal,
    Errors,
}

fn level(word: &str) -> Result<Level, InvalidRequest> {
    let expected = "trace, debug, info, warn, error, fatal or panic";
    match word {
        "trace" | "debug" => Ok(Level::All),
        "info" => Ok(Level::Normal),
        "warn" | "error" | "fatal" | "panic" => Ok(Level::Errors),
        value => Err(Given { flag: "--verbosity", value, expected }.invalid()),
    }
}

/// The flags of `build` that do the same.
fn words(
    arguments: &ExecutorArguments,
    pushes: bool,
    environment: &Environment,
) -> Result<Vec<String>, InvalidRequest> {
    let mut words: Vec<String> = Vec::new();
    let mut add = |flag: &str, value: &str| words.push(format!("{flag}={value}"));
    for (flag, values) in [
        ("--build-arg", &arguments.build_arg),
        ("--label", &arguments.label),
        ("--annotation", &arguments.annotation),
        ("--secret", &arguments.secret),
        ("--tag", &arguments.destination),
    ] {
        values.iter().for_each(|value| add(flag, value));
    }
    if let Some(target) = arguments.target.first() {
        add("--target", target);
    }
    if let Some(platform) = &arguments.custom_platform {
        add("--platform", platform);
    }
    let attributes = compression(arguments)?;
    if let Some(path) = &arguments.tar_path {
        add("--output", &format!("type=docker,\"dest={path}\"{attributes}"));
    }
    if let Some(path) = &arguments.oci_layout_path {
        add("--output", &format!("type=oci,tar=false,\"dest={path}\"{attributes}"));
    }
    // The last one: its digest is the one that is told.
    if pushes && !arguments.destination.is_empty() {
        add("--output", &format!("type=registry{attributes}"));
    }
    for (flag, switch) in [
        ("--reproducible", arguments.reproducible),
        ("--dry-run", arguments.dryrun),
        ("--no-cache", not(arguments.cache)),
        ("--squash", arguments.single_snapshot),
    ] {
        if switch.is_on() {
            add(flag, "true");
        }
    }
    let progress = match (level(&arguments.verbosity)?, arguments.log_format.as_str()) {
        (Level::Errors, "text" | "color" | "json") => "quiet",
        (_, "text" | "color") => "plain",
        (_, "json") => "rawjson",
        (_, value) => return Err(Given { flag: "--log-format", value, expected: "text, color or json" }.invalid()),
    };
    add("--progress", progress);
    cache_words(arguments, &mut add)?;
    registry_words(arguments, pushes, environment, &mut add)?;
    let (context, file) = context(arguments, environment)?;
    if let Some(file) = file {
        add("--file", &file);
    }
    words.push("--".to_owned());
    words.push(context);
    Ok(words)
}

/// The cache in a registry, as kaniko has it: below the first destination unless another place is named, and written also
/// where the image itself is not pushed.
fn cache_words(arguments: &ExecutorArguments, add: &mut dyn FnMut(&str, &str)) -> Result<(), InvalidRequest> {
    if !arguments.cache.is_on() {
        return Ok(());
    }
    let named = match (arguments.cache_repo.as_deref().filter(|name| !name.is_empty()), arguments.destination.first()) {
        (Some(name), _) => Some(name.to_owned()),
        (None, Some(destination)) => Some(format!("{}/cache", reference("--destination", destination)?.name())),
        (None, None) => None,
    };
    let Some(name) = named else { return Ok(()) };
    let (read, write) = match name.strip_prefix("oci:") {
        Some(directory) => (format!("type=local,\"src={directory}\""), format!("type=local,\"dest={directory}\"")),
        None => (format!("type=registry,ref={name}"), format!("type=registry,ref={name}")),
    };
    add("--cache-from", &read);
    if !arguments.no_push_cache.is_on() {
        add("--cache-to", &format!("{write},mode=max"));
    }
    Ok(())
}

fn not(switch: Switch) -> Switch {
    if switch.is_on() { Switch::Off } else { Switch::On }
}

fn compression(arguments: &ExecutorArguments) -> Result<String, InvalidRequest> {
    let mut attributes = String::new();
    if let Some(compression) = &arguments.compression {
        if !["gzip", "zstd", "uncompressed", "estargz"].contains(&compression.as_str()) {
            let given = Given { flag: "--compression", value: compression, expected: "gzip or zstd" };
            return Err(given.invalid());
        }
        attributes.push_str(&format!(",compression={compression}"));
    }
    if let Some(level) = arguments.compression_level.filter(|level| *level >= 0) {
        attributes.push_str(&format!(",compression-level={level}"));
    }
    Ok(attributes)
}

fn registry_words(
    arguments: &ExecutorArguments,
    pushes: bool,
    environment: &Environment,
    add: &mut dyn FnMut(&str, &str),
) -> Result<(), InvalidRequest> {
    if arguments.insecure.is_on() || arguments.skip_tls_verify.is_on() {
        for name in &arguments.destination {
            add("--insecure-registry", reference("--destination", name)?.registry());
        }
    }
    if arguments.insecure_pull.is_on() || arguments.skip_tls_verify_pull.is_on() {
        if pushes {
            // It would hold for the push too, and send its credentials to whoever answers.
            return Err(InvalidRequest::NotSupported {
                flag: "--insecure-pull or --skip-tls-verify-pull of a build that pushes".to_owned(),
                hint: "name the registries of the base images: --insecure-registry HOST".to_owned(),
            });
        }
        add("--insecure-registry", "*");
    }
    for host in arguments.insecure_registry.iter().chain(&arguments.skip_tls_verify_registry) {
        add("--insecure-registry", host);
    }
    for text in &arguments.registry_certificate {
        let given = Given { flag: "--registry-certificate", value: text, expected: "HOST=FILE" };
        add("--ca-cert", text.split_once('=').ok_or_else(|| given.invalid())?.1);
    }
    let variable = |name: &str, separator: char| -> Vec<String> {
        let told = environment.variable(name).unwrap_or_default();
        told.split(separator).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let mirrors = arguments.registry_mirror.iter().cloned().chain(variable("KANIKO_REGISTRY_MIRROR", ','));
    let mapped = arguments.registry_map.iter().cloned().chain(variable("KANIKO_REGISTRY_MAP", ';'));
    mirrors.chain(mapped).for_each(|mirror| add("--registry-mirror", &mirror));
    Ok(())
}

/// The context as `build` names it, and the Dockerfile.
fn context(
    arguments: &ExecutorArguments,
    environment: &Environment,
) -> Result<(String, Option<String>), InvalidRequest> {
    let text = arguments.context.as_str();
    let below =
        arguments.context_sub_path.as_deref().map(|path| path.trim_matches('/')).filter(|path| !path.is_empty());
    let file = arguments.dockerfile.clone().filter(|file| !file.is_empty());
    if let Some(address) = text.strip_prefix("git://") {
        return Ok((git(address, below, arguments)?, file));
    }
    for (prefix, what) in [("s3://", "S3"), ("gs://", "Google Cloud Storage")] {
        if text.starts_with(prefix) {
            return Err(InvalidRequest::NotSupported {
                flag: format!("--context {text}"),
                hint: format!("a context in {what} has to be fetched before: give its directory, or tar://FILE"),
            });
        }
    }
    if text.starts_with("tar://") || text.starts_with("https://") {
        if let Some(below) = below {
            return Err(InvalidRequest::NotSupported {
                flag: format!("--context-sub-path {below}"),
                hint: "of an archive all is built; unpack it, and give the directory".to_owned(),
            });
        }
        let stdin = text == "tar://stdin";
        return Ok((if stdin { "-".to_owned() } else { text.to_owned() }, file));
    }
    let directory = environment.absolute(text.strip_prefix("dir://").unwrap_or(text));
    let directory = below.map_or(directory.clone(), |below| directory.join(below));
    let file = file.map(|file| {
        let here = environment.absolute(&file);
        let place = if here.exists() { here } else { directory.join(&file) };
        place.display().to_string()
    });
    Ok((directory.display().to_string(), file))
}

/// `HOST/REPOSITORY[#REF[#COMMIT]]`, which kaniko fetches over https.
fn git(address: &str, below: Option<&str>, arguments: &ExecutorArguments) -> Result<String, InvalidRequest> {
    let mut parts = address.split('#');
    let repository = parts.next().unwrap_or_default();
    let named: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let mut reference = named.last().copied();
    for option in &arguments.git {
        let given = Given {
            flag: "--git",
            value: option,
            expected: "branch=NAME, single-branch=BOOL or recurse-submodules=BOOL",
        };
        match option.split_once('=').ok_or_else(|| given.invalid())? {
            ("branch", branch) => reference = reference.or(Some(branch).filter(|branch| !branch.is_empty())),
            // Only what is needed is fetched, submodules with it.
            ("single-branch" | "recurse-submodules", _) => {}
            ("insecure-skip-tls", "false") => {}
            _ => return Err(given.invalid()),
        }
    }
    let repository = if repository.ends_with(".git") { repository.to_owned() } else { format!("{repository}.git") };
    let fragment = match (reference, below) {
        (None, None) => String::new(),
        (reference, below) => {
            let below = below.map(|below| format!(":{below}")).unwrap_or_default();
            format!("#{}{below}", reference.unwrap_or_default())
        }
    };
    Ok(format!("https://{repository}{fragment}"))
}

/// Flags on which the result or somebody's trust depends.
fn refuse(arguments: &ExecutorArguments) -> Result<(), InvalidRequest> {
    let other = &arguments.other;
    let refused =
        |flag: &str, hint: &str| Err(InvalidRequest::NotSupported { flag: flag.to_owned(), hint: hint.to_owned() });
    if other.skip_default_registry_fallback.is_on() {
        return refused(
            "--skip-default-registry-fallback",
            "a registry itself is asked where its mirrors do not have an image",
        );
    }
    if !other.registry_client_cert.is_empty() {
        return refused("--registry-client-cert", "put NAME.cert and NAME.key into ~/.config/containers/certs.d/HOST/");
    }
    if other.bucket.is_some() {
        return refused(
            "--bucket",
            "a context in a bucket has to be fetched before: give its directory, or tar://FILE",
        );
    }
    if other.materialize.is_on() {
        return refused(
            "--materialize",
            "nothing is put into the builder's own root; --output DIR of `rbuild build` writes the files",
        );
    }
    Ok(())
}

/// Sentences about flags that are not followed.
fn notices(other: &OtherExecutorArguments, arguments: &ExecutorArguments) -> Vec<String> {
    let mut notices = Vec::new();
    let mut note = |is_given: bool, text: &str| {
        if is_given {
            notices.push(text.to_owned());
        }
    };
    note(
        other.cache_dir.is_some(),
        "--cache-dir is ignored: base images that were pulled are in rbuild's own store (--root)",
    );
    note(other.cache_ttl.is_some(), "--cache-ttl is ignored: `rbuild prune --older-than` removes what is old");
    note(!other.ignore_path.is_empty(), "--ignore-path is ignored: what a RUN writes there is in its layer");
    note(
        other.push_ignore_immutable_tag_errors.is_on(),
        "--push-ignore-immutable-tag-errors is ignored: a tag that cannot be written is an error",
    );
    note(
        !other.credential_helpers.is_empty(),
        "--credential-helpers is ignored: the helpers that config.json names are asked",
    );
    note(
        !arguments.registry_certificate.is_empty(),
        "--registry-certificate: the file is trusted for every registry; certs.d/HOST/ca.crt is for one",
    );
    note(arguments.target.len() > 1, "of several --target the first alone is built");
    notices
}

/// `NAME@DIGEST` as kaniko writes it: Docker Hub's host is `index.docker.io`.
pub(in crate::cli) fn pinned(name: &Reference, digest: &str) -> String {
    format!("{}@{digest}\n", hub(name))
}

/// `NAME:TAG@DIGEST`.
pub(in crate::cli) fn pinned_with_tag(name: &Reference, digest: &str) -> String {
    format!("{}:{}@{digest}\n", hub(name), name.tag().unwrap_or("latest"))
}

fn hub(name: &Reference) -> String {
    let full = name.name();
    full.strip_prefix("docker.io/").map_or(full.clone(), |rest| format!("index.docker.io/{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_digests_are_those_of_kaniko() {
        let lines = |name: &str| {
            let name: Reference = name.parse().unwrap();
            [pinned(&name, "sha256:1"), pinned_with_tag(&name, "sha256:1")]
        };
        assert_eq!(
            lines("app:1"),
            ["index.docker.io/library/app@sha256:1\n", "index.docker.io/library/app:1@sha256:1\n"]
        );
        assert_eq!(lines("r.example/app"), ["r.example/app@sha256:1\n", "r.example/app:latest@sha256:1\n"]);
    }
}
