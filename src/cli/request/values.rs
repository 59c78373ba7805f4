//! Values that several commands take: names, platforms, sizes, registries, where the store is, how progress is shown.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::fields::Given;
use super::{InvalidRequest, Verbosity};
use crate::cli::args::{BuildArguments, GlobalArguments, Switch};
use crate::cli::environment::Environment;
use crate::diagnostic::did_you_mean;
use crate::image::platform::{InvalidPlatform, Platform};
use crate::image::reference::Reference;
use crate::ui::ProgressMode;

/// Names of images, each with `latest` where no tag was given, without repetition.
pub(super) fn references(flag: &'static str, texts: &[String]) -> Result<Vec<Reference>, InvalidRequest> {
    let mut references: Vec<Reference> = Vec::new();
    for text in texts {
        let reference = reference(flag, text)?.with_default_tag();
        if reference.digest().is_some() {
            let reason = "a name for a new image cannot have a digest".to_owned();
            return Err(InvalidRequest::InvalidValue { flag, value: text.clone(), reason });
        }
        if !references.iter().any(|known| known.to_string() == reference.to_string()) {
            references.push(reference);
        }
    }
    Ok(references)
}

pub(super) fn reference(flag: &'static str, text: &str) -> Result<Reference, InvalidRequest> {
    text.parse::<Reference>().map_err(|invalid| InvalidRequest::InvalidValue {
        flag,
        value: invalid.text,
        reason: invalid.reason.to_owned(),
    })
}

pub(super) fn key_values(flag: &'static str, texts: &[String]) -> Result<BTreeMap<String, String>, InvalidRequest> {
    let pair = |text: &String| {
        let given = Given { flag, value: text, expected: "KEY=VALUE" };
        match text.split_once('=') {
            Some(("", _)) => Err(given.invalid()),
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            // As docker: a key alone has an empty value.
            None if !text.is_empty() => Ok((text.clone(), String::new())),
            None => Err(given.invalid()),
        }
    };
    texts.iter().map(pair).collect()
}

pub(super) fn build_arguments(
    texts: &[String],
    environment: &Environment,
) -> Result<BTreeMap<String, String>, InvalidRequest> {
    let mut values = BTreeMap::new();
    for text in texts {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), environment.variables.get(text).cloned()),
        };
        if name.is_empty() {
            return Err(Given { flag: "--build-arg", value: text, expected: "NAME=VALUE or NAME" }.invalid());
        }
        match value {
            Some(value) => values.insert(name.to_owned(), value),
            None => values.remove(name),
        };
    }
    Ok(values)
}

/// The variable is passed on as an argument (as buildx does) unless that was given, and means the same.
pub(super) fn pass_source_date_epoch(build_arguments: &mut BTreeMap<String, String>, environment: &Environment) {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    if let Some(value) = environment.variable(NAME).filter(|value| !value.is_empty()) {
        build_arguments.entry(NAME.to_owned()).or_insert_with(|| value.to_owned());
    }
}

pub(super) fn platforms(texts: &[String], environment: &Environment) -> Result<Vec<Platform>, InvalidRequest> {
    const VARIABLE: &str = "DOCKER_DEFAULT_PLATFORM";
    let (flag, texts) = match environment.variable(VARIABLE) {
        Some(value) if texts.is_empty() => (VARIABLE, vec![value.to_owned()]),
        _ => ("--platform", texts.to_vec()),
    };
    let mut platforms = Vec::new();
    for text in &texts {
        let platform = platform(flag, text)?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    if platforms.is_empty() {
        platforms.push(Platform::host());
    }
    Ok(platforms)
}

pub(super) fn platform(flag: &'static str, text: &str) -> Result<Platform, InvalidRequest> {
    text.trim().parse().map_err(|InvalidPlatform { reason, .. }| {
        let known: Vec<&str> = reason.known().collect();
        let more = match did_you_mean(text.trim(), known.iter().copied()) {
            Some(meant) => format!("; did you mean {meant}?"),
            None if known.is_empty() => String::new(),
            None => format!("; known are {}", known.join(", ")),
        };
        InvalidRequest::InvalidValue { flag, value: text.to_owned(), reason: format!("{reason}{more}") }
    })
}

pub(super) fn jobs(text: Option<&str>, environment: &Environment) -> Result<NonZeroUsize, InvalidRequest> {
    match text {
        // Podman's 0 means no limit; more steps than processors gain nothing here.
        None | Some("0") => Ok(environment.processors),
        Some(value) => {
            value.parse().map_err(|_| Given { flag: "--jobs", value, expected: "a number of steps" }.invalid())
        }
    }
}

pub(super) fn progress(
    arguments: &BuildArguments,
    global: &GlobalArguments,
    environment: &Environment,
) -> Result<(ProgressMode, Verbosity), InvalidRequest> {
    let word = progress_word(arguments.progress.as_deref(), environment).map(|(_, word)| word);
    let mode = progress_mode(arguments.progress.as_deref(), environment)?;
    let is_shown = arguments.progress.is_some() && !matches!(mode, ProgressMode::Auto | ProgressMode::Quiet);
    match (arguments.quiet, word) {
        (Switch::On, _) if is_shown => Err(InvalidRequest::Contradiction {
            problem: "--quiet and --progress contradict each other".to_owned(),
            hint: "leave one of them out".to_owned(),
        }),
        // As in buildx: `quiet` prints the id, `none` does not.
        (Switch::On, _) | (Switch::Off, Some("quiet")) => Ok((ProgressMode::Quiet, Verbosity::Quiet)),
        (Switch::Off, _) if global.debug.is_on() => Ok((mode, Verbosity::Debug)),
        (Switch::Off, _) => Ok((mode, Verbosity::Normal)),
    }
}

/// The flag, else `BUILDKIT_PROGRESS`: which it was, and its word.
pub(super) fn progress_word<'a>(
    flag: Option<&'a str>,
    environment: &'a Environment,
) -> Option<(&'static str, &'a str)> {
    const VARIABLE: &str = "BUILDKIT_PROGRESS";
    match flag {
        Some(word) => Some(("--progress", word)),
        None => environment.variable(VARIABLE).map(|word| (VARIABLE, word)),
    }
}

pub(super) fn progress_mode(flag: Option<&str>, environment: &Environment) -> Result<ProgressMode, InvalidRequest> {
    let Some((flag, word)) = progress_word(flag, environment) else { return Ok(ProgressMode::Auto) };
    word.parse().map_err(|_| {
        let given = Given { flag, value: word, expected: "auto, plain, tty, quiet, none or rawjson" };
        match did_you_mean(word, crate::ui::PROGRESS_WORDS) {
            Some(meant) => given.because(&format!("did you mean {meant}?")),
            None => given.invalid(),
        }
    })
}
pub(super) fn store_root(global: &GlobalArguments, environment: &Environment) -> Result<PathBuf, InvalidRequest> {
    match global.root.as_deref() {
        Some("") => Err(Given { flag: "--root", value: "", expected: "a directory" }.invalid()),
        Some(root) => Ok(environment.absolute(root)),
        None => environment.default_store_root().ok_or(InvalidRequest::NoStoreRoot),
    }
}

/// A size as Docker's flags take it: a number with b, k, m, g, t or p (each with b or ib besides), always powers of 1024.
pub(super) fn byte_size(flag: &'static str, text: &str) -> Result<u64, InvalidRequest> {
    let given = Given { flag, value: text, expected: "a size such as 64m or 1g" };
    let lower = text.trim().to_lowercase();
    let digits = lower.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let power = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(given.invalid()),
    };
    let number: f64 = number.parse().map_err(|_| given.invalid())?;
    let bytes = number * 1024f64.powi(power);
    if bytes >= u64::MAX as f64 {
        return Err(given.because("it is too large"));
    }
    Ok(bytes as u64)
}
