//! What the commands about the store's room and health were asked to do, and how large it may become.

use std::path::PathBuf;
use std::time::Duration;

use super::commands::{Execution, Listing};
use super::fields::Given;
use super::{InvalidRequest, byte_size, store_root};
use crate::cli::args::{CheckArguments, DiskUsageArguments, GlobalArguments, PruneArguments};
use crate::cli::environment::Environment;
use crate::store::{Depth, Kinds};

/// `prune`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prune {
    /// Where images live.
    pub store_root: PathBuf,
    /// What may go.
    pub scope: PruneScope,
    /// Which kinds of entries.
    pub kinds: Kinds,
    /// Remove the least recently used until no more bytes are used.
    pub max_used_space: Option<u64>,
    /// Keep what was used within this time.
    pub older_than: Option<Duration>,
    /// Whether it is done.
    pub execution: Execution,
}

/// What `prune` may remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneScope {
    /// What no image and no recent cache record needs.
    Unneeded,
    /// All of the cache and all images without a name.
    All,
}

impl Prune {
    pub(in crate::cli) fn resolve(
        arguments: PruneArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<Prune, InvalidRequest> {
        let filters = Filters::parse(&arguments.filters)?;
        let older_than = arguments.older_than.as_deref().map(|text| duration("--older-than", text)).transpose()?;
        Ok(Prune {
            store_root: store_root(global, environment)?,
            scope: if arguments.all { PruneScope::All } else { PruneScope::Unneeded },
            kinds: filters.kinds.unwrap_or(Kinds::Cache),
            max_used_space: arguments
                .max_used_space
                .as_deref()
                .map(|text| byte_size("--max-used-space", text))
                .transpose()?,
            older_than: older_than.or(filters.until),
            execution: if arguments.dry_run { Execution::DryRun } else { Execution::Perform },
        })
    }
}

/// What `--filter` says.
#[derive(Default)]
struct Filters {
    until: Option<Duration>,
    kinds: Option<Kinds>,
}

impl Filters {
    fn parse(texts: &[String]) -> Result<Filters, InvalidRequest> {
        let mut filters = Filters::default();
        for text in texts {
            let given =
                Given { flag: "--filter", value: text, expected: "until=TIME, type=exec.cachemount or type=regular" };
            let (key, value) = text.split_once('=').ok_or_else(|| given.invalid())?;
            // BuildKit also takes `==`.
            match (key, value.trim_start_matches('=')) {
                ("until" | "unused-for", time) => filters.until = Some(duration("--filter", time)?),
                ("type", "exec.cachemount") => filters.add(Kinds::CacheMounts),
                ("type", "regular") => filters.add(Kinds::Results),
                ("type", _) => return Err(given.invalid()),
                (key, _) => return Err(given.unknown_key(key, &["until", "type"])),
            }
        }
        Ok(filters)
    }

    /// Filters of one kind are alternatives.
    fn add(&mut self, kinds: Kinds) {
        self.kinds = Some(match self.kinds {
            Some(other) if other != kinds => Kinds::Cache,
            _ => kinds,
        });
    }
}

/// A time such as `24h`, `1h30m`, `1.5h` or `7d`: Go's durations, with days and weeks.
pub(super) fn duration(flag: &'static str, text: &str) -> Result<Duration, InvalidRequest> {
    let given = Given { flag, value: text, expected: "a time such as 90m, 1.5h or 7d" };
    let (mut total, mut rest) = (Duration::ZERO, text);
    if text == "0" {
        return Ok(total);
    }
    if text.is_empty() {
        return Err(given.invalid());
    }
    while !rest.is_empty() {
        let is_digit = |character: char| character.is_ascii_digit() || character == '.';
        let digits = rest.find(|character| !is_digit(character)).ok_or_else(|| given.invalid())?;
        let (number, after) = rest.split_at(digits);
        let (unit, after) = after.split_at(after.find(is_digit).unwrap_or(after.len()));
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 7.0 * 86_400.0,
            _ => return Err(given.invalid()),
        };
        let number: f64 = number.parse().map_err(|_| given.invalid())?;
        let part = Duration::try_from_secs_f64(number * seconds).ok();
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(|| given.because("it is too long"))?;
        rest = after;
    }
    Ok(total)
}

/// `check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckStore {
    /// Where images live.
    pub store_root: PathBuf,
    /// How closely things are looked at.
    pub depth: Depth,
    /// What is done about damage.
    pub remedy: Remedy,
    /// How it is said.
    pub listing: Listing,
}

/// What is done about damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// It is said.
    Report,
    /// What is damaged is removed.
    Repair,
}

impl CheckStore {
    pub(in crate::cli) fn resolve(
        arguments: CheckArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<CheckStore, InvalidRequest> {
        let listing = match arguments.format.as_str() {
            "text" => Listing::Table,
            "json" => Listing::Json,
            value => return Err(Given { flag: "--format", value, expected: "text or json" }.invalid()),
        };
        Ok(CheckStore {
            store_root: store_root(global, environment)?,
            depth: if arguments.deep { Depth::Content } else { Depth::Names },
            remedy: if arguments.repair { Remedy::Repair } else { Remedy::Report },
            listing,
        })
    }
}

/// `du`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUsage {
    /// Where images live.
    pub store_root: PathBuf,
    /// How to print it.
    pub listing: Listing,
    /// How much of it.
    pub detail: Detail,
}

/// How much is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Sums.
    Sums,
    /// Every entry.
    Entries,
}

impl DiskUsage {
    pub(in crate::cli) fn resolve(
        arguments: DiskUsageArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<DiskUsage, InvalidRequest> {
        Ok(DiskUsage {
            store_root: store_root(global, environment)?,
            listing: if arguments.json { Listing::Json } else { Listing::Table },
            detail: if arguments.verbose { Detail::Entries } else { Detail::Sums },
        })
    }
}

/// The user's configuration file.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    #[serde(default)]
    storage: Storage,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Storage {
    max: Option<String>,
}

/// How large the store may become: `RBUILD_STORE_MAX`, else `storage.max` of `rbuild/config.json` in the user's
/// configuration directory; no limit where neither says anything.
pub(in crate::cli) fn store_limit(environment: &Environment) -> Result<Option<u64>, InvalidRequest> {
    if let Some(text) = environment.variable("RBUILD_STORE_MAX") {
        return byte_size("RBUILD_STORE_MAX", text).map(Some);
    }
    let home = || environment.variable("HOME").map(|home| PathBuf::from(home).join(".config"));
    // The XDG base directory specification wants relative paths ignored.
    let folder = environment.variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let Some(path) = folder.or_else(home).map(|folder| folder.join("rbuild/config.json")) else { return Ok(None) };
    let invalid = |reason: String| InvalidRequest::InvalidValue {
        flag: "configuration file",
        value: path.display().to_string(),
        reason,
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(invalid(error.to_string())),
    };
    let configuration: Configuration = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    configuration.storage.max.map(|text| byte_size("storage.max", &text)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_those_of_buildkit() {
        let parse = |text: &str| Filters::parse(&[text.to_owned()]);
        assert_eq!(parse("until=24h").unwrap().until, Some(Duration::from_secs(86_400)));
        assert_eq!(parse("type==exec.cachemount").unwrap().kinds, Some(Kinds::CacheMounts));
        assert_eq!(parse("type=regular").unwrap().kinds, Some(Kinds::Results));
        let both = ["type=regular".to_owned(), "type=exec.cachemount".to_owned()];
        assert_eq!(Filters::parse(&both).unwrap().kinds, Some(Kinds::Cache), "either");
        for (text, seconds) in
            [("1h30m", 5400.0), ("1.5h", 5400.0), ("500ms", 0.5), ("0", 0.0), ("2d1s", 172_801.0), ("1w", 604_800.0)]
        {
            assert_eq!(duration("--filter", text).unwrap(), Duration::from_secs_f64(seconds), "{text}");
        }
        for wrong in ["", "1", "h", "1.2.3h", "1y", "-1h", "99999999999999999999w"] {
            assert!(duration("--filter", wrong).is_err(), "{wrong}");
        }
        for wrong in ["until=soon", "type=frontend", "label=x", "until"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
