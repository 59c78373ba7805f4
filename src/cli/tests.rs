//! Argv → request, by a table of examples (`testdata/cli/args.txt`).
//!
//! An entry is `$ rbuild …`, with `NAME=value` before it where a variable is set, `@stdout=terminal` (or stdin) where that
//! is one, and below it what came out: the fields that differ from those of `rbuild .`, or the error and its hints.
//! `UPDATE=1 cargo test --lib cli` writes the table anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::environment::{Environment, Stdio};
use super::*;

/// A working directory with what the table's commands name.
fn surroundings() -> (tempfile::TempDir, Environment) {
    let directory = tempfile::tempdir().unwrap();
    for path in ["app", "images", "layout", "out"] {
        std::fs::create_dir(directory.path().join(path)).unwrap();
    }
    for path in ["token", "Dockerfile", "Other.Dockerfile"] {
        std::fs::write(directory.path().join(path), "x").unwrap();
    }
    let variables = [("HOME", "/home/me"), ("GREETING", "hello"), ("EMPTY", "")];
    let environment = Environment {
        variables: variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        current_directory: directory.path().to_owned(),
        user_id: 1000,
        now: SystemTime::UNIX_EPOCH,
        processors: NonZeroUsize::new(4).unwrap(),
        stdin: Stdio::Other,
        stdout: Stdio::Other,
        stderr: Stdio::Other,
    };
    (directory, environment)
}

/// Splits as a shell does, with single quotes only.
fn words(line: &str) -> Vec<OsString> {
    let mut words: Vec<String> = Vec::new();
    let (mut is_quoted, mut is_in_word) = (false, false);
    for character in line.chars() {
        match character {
            '\'' => {
                is_quoted = !is_quoted;
                if !is_in_word {
                    words.push(String::new());
                    is_in_word = true;
                }
            }
            ' ' if !is_quoted => is_in_word = false,
            character => {
                if !is_in_word {
                    words.push(String::new());
                    is_in_word = true;
                }
                words.last_mut().unwrap().push(character);
            }
        }
    }
    words.into_iter().map(OsString::from).collect()
}

/// Every field of a request as text; written out, so that a new field cannot be forgotten.
fn fields(request: &Request) -> BTreeMap<&'static str, String> {
    macro_rules! texts {
        ($($name:ident),* $(,)?) => {{
            let Request { $($name),* } = request;
            BTreeMap::from([$((stringify!($name), format!("{:?}", $name))),*])
        }};
    }
    texts!(
        action,
        tags,
        context,
        dockerfile,
        target,
        build_arguments,
        labels,
        annotations,
        platforms,
        build_contexts,
        cache,
        cache_from,
        mounts_limit,
        cache_to,
        pull,
        outputs,
        sameness,
        layering,
        attestations,
        signing_keys,
        image_id_file,
        metadata_file,
        digest_files,
        secrets,
        ssh,
        network,
        hosts,
        resolver,
        entitlements,
        shm_size,
        limits,
        cdi_directories,
        isolation,
        storage,
        jobs,
        on_error,
        progress,
        verbosity,
        registries,
        store_root,
        store_limit,
        notices,
    )
}

/// What a command came to, in the table's form.
fn outcome(result: &Result<Command, UsageError>, plain: &Request) -> String {
    let mut text = String::new();
    let mut add = |line: &str| writeln!(text, "{line}").unwrap();
    let mut request = |word: &str, request: &Request| {
        add(word);
        let before = fields(plain);
        for (name, value) in fields(request) {
            if before[name] != value {
                add(&format!("  {name}: {value}"));
            }
        }
    };
    match result {
        Ok(Command::Build(build)) => request("build", build),
        Ok(Command::Show(shown)) => add(&format!("show {:?}", shown.lines().next().unwrap_or_default())),
        Ok(command) => add(&format!("{command:?}")),
        Err(error) => {
            add(&format!("error: {error}"));
            for hint in error.hints() {
                add(&format!("hint: {hint}"));
            }
        }
    }
    text
}

/// One entry's lines of the table → what it should be.
fn run_entry(settings: &[&str], command: &str) -> String {
    let (directory, mut environment) = surroundings();
    let plain = match parse(words("rbuild ."), &environment) {
        Ok(Command::Build(plain)) => plain,
        other => panic!("`rbuild .` is no build: {other:?}"),
    };
    for setting in settings {
        match setting.split_once('=').unwrap() {
            ("@stdin", "terminal") => environment.stdin = Stdio::Terminal,
            ("@stdout", "terminal") => environment.stdout = Stdio::Terminal,
            ("@user", id) => environment.user_id = id.parse().unwrap(),
            (name, "-") => _ = environment.variables.remove(name),
            (name, value) => _ = environment.variables.insert(name.to_owned(), value.to_owned()),
        }
    }
    let result = parse(words(command), &environment);
    outcome(&result, &plain).replace(directory.path().to_str().unwrap(), "$CWD")
}

fn table() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cli/args.txt")
}

#[test]
fn command_lines_mean_what_the_table_says() {
    let expected = std::fs::read_to_string(table()).unwrap();
    let (mut found, mut settings, mut entries) = (String::new(), Vec::new(), 0);
    for line in expected.lines() {
        if line.starts_with('#') {
            found.push_str(&format!("\n{line}\n"));
        } else if let Some(command) = line.strip_prefix("$ ") {
            if settings.is_empty() {
                found.push('\n');
            }
            found.push_str(&format!("{line}\n{}", run_entry(&settings, command)));
            settings.clear();
            entries += 1;
        } else if let Some(setting) = line.strip_prefix("% ") {
            if settings.is_empty() {
                found.push('\n');
            }
            settings.push(setting);
            found.push_str(&format!("{line}\n"));
        }
    }
    let found = found.trim_start();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(table(), found).unwrap();
        return;
    }
    assert!(entries >= 60, "the table has {entries} entries");
    for (number, (expected, found)) in expected.lines().zip(found.lines()).enumerate() {
        assert_eq!(found, expected, "testdata/cli/args.txt:{}", number + 1);
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "testdata/cli/args.txt has lines too many or too few");
}

#[test]
fn clap_finds_no_fault_in_the_arguments() {
    command().debug_assert();
}

#[test]
fn every_flag_has_a_help_text() {
    for command in command().get_subcommands() {
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
        }
    }
}

#[test]
fn a_secret_is_read_from_its_file_or_variable_and_a_large_one_is_refused() {
    let (directory, environment) = surroundings();
    let secret = |source| request::Secret { id: "s".to_owned(), source };
    let file = secret(request::SecretSource::File(directory.path().join("token")));
    assert_eq!(file.read(&environment).unwrap(), Some(b"x".to_vec()));
    let variable = secret(request::SecretSource::Env("GREETING".to_owned()));
    assert_eq!(variable.read(&environment).unwrap(), Some(b"hello".to_vec()));
    let unset = secret(request::SecretSource::Env("NOT_SET".to_owned()));
    assert_eq!(unset.read(&environment).unwrap(), None);
    std::fs::write(directory.path().join("token"), vec![b'x'; 501 << 10]).unwrap();
    assert!(matches!(file.read(&environment), Err(request::SecretError::TooLarge { .. })));
}
