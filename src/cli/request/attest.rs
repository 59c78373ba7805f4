//! What is said about an image: `--provenance`, `--sbom`, `--attest`, and the build arguments of BuildKit that stand for them.

use std::collections::BTreeMap;

use super::InvalidRequest;
use super::fields::Given;
use crate::attest::Reach;
use crate::attest::provenance::{Claim, Materials, Mode, Options, Version};
use crate::build::{Attestations, Software};
use crate::cli::args::{AttestArguments, Switch};
use crate::cli::environment::Environment;

const PROVENANCE: &str = "true, false, or mode=min|max and other KEY=VALUE";
const SBOM: &str = "true or false";
const ATTEST: &str = "type=sbom|provenance[,disabled=true][,KEY=VALUE]";

const PROVENANCE_KEYS: [&str; 9] = [
    "type",
    "disabled",
    "mode",
    "version",
    "builder-id",
    "filename",
    "reproducible",
    "inline-only",
    "complete-materials",
];

/// Something that was asked for, and how.
struct Asked<'a> {
    given: Given<'a>,
    pairs: Vec<(String, String)>,
    is_on: bool,
}

/// Understands what is to be said about the images.
pub(super) fn attestations(
    arguments: &AttestArguments,
    build_arguments: &BTreeMap<String, String>,
    environment: &Environment,
    notices: &mut Vec<String>,
) -> Result<Attestations, InvalidRequest> {
    let mut asked: BTreeMap<&str, Asked<'_>> = BTreeMap::new();
    for text in &arguments.attestations {
        let (kind, one) = of_type(Given { flag: "--attest", value: text, expected: ATTEST })?;
        add(&mut asked, kind, one)?;
    }
    let of_arguments = |name: &str| build_arguments.get(name).map(String::as_str);
    let short = [
        ("provenance", "--provenance", arguments.provenance.as_deref(), PROVENANCE),
        ("sbom", "--sbom", arguments.sbom.as_deref(), SBOM),
        (
            "provenance",
            "--build-arg BUILDKIT_ATTEST_PROVENANCE",
            of_arguments("BUILDKIT_ATTEST_PROVENANCE"),
            PROVENANCE,
        ),
        ("sbom", "--build-arg BUILDKIT_ATTEST_SBOM", of_arguments("BUILDKIT_ATTEST_SBOM"), SBOM),
    ];
    for (kind, flag, value, expected) in short {
        let Some(value) = value else { continue };
        add(&mut asked, kind, of_short(Given { flag, value, expected })?)?;
    }
    let provenance = match asked.get("provenance").filter(|asked| asked.is_on) {
        Some(asked) => Some(provenance(asked, notices)?),
        None => None,
    };
    let software = match asked.get("sbom").filter(|asked| asked.is_on) {
        Some(asked) => sbom(asked, notices)?,
        None => Software::Untold,
    };
    let metadata = metadata(environment.variable("BUILDX_METADATA_PROVENANCE"), provenance.as_ref());
    Ok(Attestations { provenance, software, metadata })
}

/// What is asked for twice must be the same.
fn add<'a>(asked: &mut BTreeMap<&'a str, Asked<'a>>, kind: &'a str, new: Asked<'a>) -> Result<(), InvalidRequest> {
    let (flag, value) = (new.given.flag, new.given.value);
    match asked.insert(kind, new) {
        Some(before) if before.is_on != asked[kind].is_on || before.pairs != asked[kind].pairs => {
            Err(InvalidRequest::Contradiction {
                problem: format!("{flag} {value} contradicts {} {}", before.given.flag, before.given.value),
                hint: "say it once".to_owned(),
            })
        }
        _ => Ok(()),
    }
}

fn of_type(given: Given<'_>) -> Result<(&'static str, Asked<'_>), InvalidRequest> {
    let mut pairs = given.pairs()?;
    let kind = match pairs.iter().find(|(key, _)| key == "type").map(|(_, value)| value.as_str()) {
        Some("provenance") => "provenance",
        Some("sbom") => "sbom",
        Some(other) => {
            return Err(given.because(&format!("unknown attestation type {other:?}, expected sbom or provenance")));
        }
        None => return Err(given.because("type=… is missing")),
    };
    let mut is_on = true;
    for (key, value) in &pairs {
        if key == "disabled" {
            is_on = !switch(given, key, value)?;
        }
    }
    pairs.retain(|(key, _)| key != "type" && key != "disabled");
    Ok((kind, Asked { given, pairs, is_on }))
}

fn of_short(given: Given<'_>) -> Result<Asked<'_>, InvalidRequest> {
    if let Ok(switch) = given.value.parse::<Switch>() {
        return Ok(Asked { given, pairs: Vec::new(), is_on: switch.is_on() });
    }
    if given.value.is_empty() {
        return Ok(Asked { given, pairs: Vec::new(), is_on: true });
    }
    let pairs = match given.pairs() {
        Ok(pairs) => pairs,
        Err(_) => {
            let flag = given.flag;
            return Err(given.because(&format!("expected {}; before a context, write {flag}=true", given.expected)));
        }
    };
    Ok(Asked { given, pairs, is_on: true })
}

fn switch(given: Given<'_>, key: &str, value: &str) -> Result<bool, InvalidRequest> {
    value.parse::<Switch>().map(Switch::is_on).map_err(|_| given.because(&format!("{key} is true or false")))
}

fn provenance(asked: &Asked<'_>, notices: &mut Vec<String>) -> Result<Options, InvalidRequest> {
    let given = asked.given;
    let mut options = Options::default();
    for (key, value) in &asked.pairs {
        match key.as_str() {
            "mode" => options.mode = mode(given, value)?,
            "version" => options.version = version(given, value)?,
            "builder-id" => options.builder_id.clone_from(value),
            "filename" => options.file = file_name(given, value)?,
            "reproducible" if switch(given, key, value)? => options.claim = Claim::Reproducible,
            "inline-only" if switch(given, key, value)? => options.reach = Reach::Images,
            "complete-materials" if switch(given, key, value)? => options.materials = Materials::Complete,
            "reproducible" | "inline-only" | "complete-materials" => {}
            "capture-usage" => {
                if switch(given, key, value)? {
                    notices.push("capture-usage=true is ignored: what RUN uses is not recorded".to_owned());
                }
            }
            key => return Err(given.unknown_key(key, &PROVENANCE_KEYS)),
        }
    }
    Ok(options)
}

fn mode(given: Given<'_>, value: &str) -> Result<Mode, InvalidRequest> {
    match value {
        "min" => Ok(Mode::Min),
        "max" | "full" => Ok(Mode::Max),
        _ => Err(given.because(&format!("invalid mode {value:?}, expected min or max"))),
    }
}

fn version(given: Given<'_>, value: &str) -> Result<Version, InvalidRequest> {
    match value {
        "v1" => Ok(Version::V1),
        "v0.2" => Ok(Version::V02),
        _ => Err(given.because(&format!("invalid version {value:?}, expected v1 or v0.2"))),
    }
}

/// The name alone, as in BuildKit: it goes where the files are.
fn file_name(given: Given<'_>, value: &str) -> Result<String, InvalidRequest> {
    match value.rsplit('/').next() {
        Some("" | "." | "..") | None => Err(given.because("filename is the name of a file")),
        Some(name) => Ok(name.to_owned()),
    }
}

fn sbom(asked: &Asked<'_>, notices: &mut Vec<String>) -> Result<Software, InvalidRequest> {
    for (key, value) in &asked.pairs {
        match key.as_str() {
            "generator" => {
                notices.push(format!("generator={value} is not run: rbuild itself looks for software in the image"))
            }
            // BuildKit hands all others to the generator.
            key => notices.push(format!("{key}={value} is ignored: it is for a generator, and none is run")),
        }
    }
    Ok(Software::Listed)
}

/// As buildx: a metadata file says as much as the variable wants, and the least where provenance is asked for anyway.
fn metadata(variable: Option<&str>, provenance: Option<&Options>) -> Option<Mode> {
    match variable {
        Some("max") => Some(Mode::Max),
        Some("min") => Some(Mode::Min),
        Some("disabled" | "0" | "f" | "F" | "FALSE" | "false" | "False") => None,
        None | Some(_) => provenance.map(|_| Mode::Min),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metadata_file_says_what_the_variable_wants() {
        let asked = Options::default();
        assert_eq!(metadata(None, None), None);
        assert_eq!(metadata(Some("true"), None), None);
        assert_eq!(metadata(None, Some(&asked)), Some(Mode::Min));
        assert_eq!(metadata(Some("max"), None), Some(Mode::Max));
        assert_eq!(metadata(Some("disabled"), Some(&asked)), None);
    }
}
