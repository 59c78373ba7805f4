//! `rbuild images`, and how lists are printed.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{failed, open_store, print, store_failed, warn_of_damage};
use crate::cli::environment::Environment;
use crate::cli::failure::{Failure, FailureKind};
use crate::cli::request::commands::{Heading, Images, Listing, TextLength};
use crate::cli::template::Template;
use crate::digest::Digest;
use crate::image::reference::Reference;
use crate::store::Tagged;

/// Bytes as people read them, in powers of ten as docker prints them.
pub(super) fn human(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes}B"),
        _ if value < 10.0 => format!("{value:.2}{}", units[unit]),
        _ => format!("{value:.1}{}", units[unit]),
    }
}

/// Rows as a table, columns as wide as their widest cell.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(text, "{}", cells.join("   ").trim_end()).expect("text can be written to");
    }
    text
}

pub(super) fn pretty(value: &serde_json::Value) -> Result<String, Failure> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value).map_err(|error| failed(&error))?))
}

/// A name's repository and tag as docker lists them.
fn columns(name: &str) -> (String, String) {
    let familiar = familiar(name);
    // As docker: a name with a digest has no tag. The digest is a column of its own.
    let (familiar, is_digested) = match familiar.split_once('@') {
        Some((name, _)) => (name.to_owned(), true),
        None => (familiar, false),
    };
    match familiar.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') && is_digested => (repository.to_owned(), "<none>".to_owned()),
        Some((repository, tag)) if !tag.contains('/') => (repository.to_owned(), tag.to_owned()),
        _ => (familiar, "<none>".to_owned()),
    }
}

fn familiar(name: &str) -> String {
    name.parse::<Reference>().map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// A moment as tables show it.
pub(super) fn moment(rfc3339: &str) -> String {
    rfc3339.split('.').next().unwrap_or_default().trim_end_matches('Z').replace('T', " ")
}

/// How long ago a moment was, in docker's words.
pub(super) fn since(rfc3339: &str, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let Some(then) = crate::image::time::seconds(rfc3339) else { return "N/A".to_owned() };
    let seconds = now.saturating_sub(u64::try_from(then).unwrap_or_default());
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second ago".to_owned(),
        1 => "1 second ago".to_owned(),
        2..60 => format!("{seconds} seconds ago"),
        60..120 => "About a minute ago".to_owned(),
        120..3600 => format!("{minutes} minutes ago"),
        _ if hours == 1 => "About an hour ago".to_owned(),
        _ if hours < 48 => format!("{hours} hours ago"),
        _ if hours < 24 * 14 => format!("{} days ago", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks ago", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months ago", hours / 24 / 30),
        _ => format!("{} years ago", hours / 24 / 365),
    }
}

/// Prints rows by a template, one line each, under the names of its fields where that is asked for.
pub(super) fn print_rows(rows: &[Value], template: &Template, heading: Heading) -> Result<(), Failure> {
    let mut lines = Vec::new();
    if let (Heading::Shown, Some(Value::Object(first))) = (heading, rows.first()) {
        let names = first.keys().map(|key| (key.clone(), Value::from(heading_of(key)))).collect();
        lines.push(Value::Object(names));
    }
    lines.extend(rows.iter().cloned());
    let mut shown = Vec::new();
    for line in &lines {
        shown.push(
            template.render(line).map_err(|error| Failure::new(FailureKind::Usage, format!("--format: {error}")))?,
        );
    }
    match heading {
        Heading::None => print(&shown.into_iter().map(|line| line + "\n").collect::<String>()),
        Heading::Shown => {
            let rows: Vec<Vec<String>> =
                shown.iter().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
            print(&table(&rows))
        }
    }
}

/// `CreatedBy` → `CREATED BY`, as docker heads its columns.
fn heading_of(field: &str) -> String {
    match field {
        "ID" => "IMAGE ID".to_owned(),
        "CreatedSince" => "CREATED".to_owned(),
        _ => {
            let mut text = String::new();
            for character in field.chars() {
                if character.is_ascii_uppercase() && !text.is_empty() {
                    text.push(' ');
                }
                text.push(character.to_ascii_uppercase());
            }
            text
        }
    }
}

/// `rbuild images`: what was built or pulled under a name.
pub(super) fn images(request: &Images, environment: &Environment) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let wanted = |tagged: &Tagged| {
        let (repository, tag) = columns(&tagged.name);
        let is_meant =
            |filter: &String| format!("{repository}:{tag}").contains(filter) || familiar(&tagged.name).contains(filter);
        request.filter.as_ref().is_none_or(is_meant)
    };
    let all: Vec<Tagged> = store.all_tagged().map_err(store_failed)?.into_iter().filter(wanted).collect();
    warn_of_damage(&store);
    match &request.listing {
        Listing::Json => print(&pretty(&all.iter().map(image_json).collect::<Vec<_>>().into())?),
        Listing::Ids => {
            let mut ids: Vec<String> = all.iter().map(|tagged| tagged.image.config.to_string()).collect();
            ids.dedup();
            print(&ids.into_iter().map(|id| format!("{id}\n")).collect::<String>())
        }
        Listing::Table => {
            let mut rows =
                vec![["REPOSITORY", "TAG", "IMAGE ID", "PLATFORM", "CREATED", "SIZE"].map(str::to_owned).to_vec()];
            for tagged in &all {
                let (repository, tag) = columns(&tagged.name);
                let (id, created) = (shown_id(tagged, request.ids), moment(&tagged.image.created));
                rows.push(vec![repository, tag, id, tagged.platform.clone(), created, size(tagged)]);
            }
            print(&table(&rows))
        }
        Listing::Template(template, heading) => {
            let row = |tagged: &Tagged| {
                let (repository, tag) = columns(&tagged.name);
                let digest = digest(tagged);
                json!({
                    "ID": shown_id(tagged, request.ids), "Repository": repository, "Tag": tag, "Platform": tagged.platform,
                    "Digest": digest.map_or_else(|| "<none>".to_owned(), |digest| digest.to_string()),
                    "CreatedAt": moment(&tagged.image.created), "Size": size(tagged),
                    "CreatedSince": since(&tagged.image.created, environment.now),
                })
            };
            print_rows(&all.iter().map(row).collect::<Vec<_>>(), template, *heading)
        }
    }
}

fn image_json(tagged: &Tagged) -> Value {
    let (repository, tag) = columns(&tagged.name);
    json!({
        "id": tagged.image.config, "repository": repository, "tag": tag, "platform": tagged.platform,
        "digest": digest(tagged), "created": tagged.image.created, "size": tagged.image.size, "built": tagged.built,
    })
}

/// What a registry calls it: as it was pulled, else its own manifest's.
fn digest(tagged: &Tagged) -> Option<Digest> {
    tagged.image.source.or(tagged.image.manifest)
}

fn shown_id(tagged: &Tagged, length: TextLength) -> String {
    match length {
        TextLength::Cut => tagged.image.config.short(),
        TextLength::Full => tagged.image.config.to_string(),
    }
}

/// The size of a pulled image is known once something looked into its layers.
fn size(tagged: &Tagged) -> String {
    if tagged.image.size == 0 { "-".to_owned() } else { human(tagged.image.size) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_docker_shows_them() {
        for (bytes, text) in
            [(0, "0B"), (999, "999B"), (1500, "1.50kB"), (12_345_678, "12.3MB"), (999_999_999, "1.00GB")]
        {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn ages_are_said_as_docker_says_them() {
        let now = UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        for (seconds, text) in [
            (0, "Less than a second ago"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (61, "About a minute ago"),
            (600, "10 minutes ago"),
            (3600, "About an hour ago"),
            (7200, "2 hours ago"),
            (3 * 86_400, "3 days ago"),
            (21 * 86_400, "3 weeks ago"),
            (100 * 86_400, "3 months ago"),
            (900 * 86_400, "2 years ago"),
        ] {
            assert_eq!(since(&crate::image::time::rfc3339(1_000_000_000 - seconds, None), now), text);
        }
        assert_eq!(since("", now), "N/A");
        assert_eq!(heading_of("CreatedBy"), "CREATED BY");
    }

    #[test]
    fn names_are_split_at_their_tag_and_not_at_a_port() {
        assert_eq!(columns("docker.io/library/debian:12"), ("debian".to_owned(), "12".to_owned()));
        assert_eq!(columns("localhost:5000/a:b"), ("localhost:5000/a".to_owned(), "b".to_owned()));
        let digest = format!("sha256:{}", "a".repeat(64));
        for (name, repository) in [
            ("localhost:5000/a", "localhost:5000/a"),
            ("localhost:5000/a:b", "localhost:5000/a"),
            ("docker.io/library/debian", "debian"),
        ] {
            assert_eq!(columns(&format!("{name}@{digest}")), (repository.to_owned(), "<none>".to_owned()), "{name}");
        }
    }
}
