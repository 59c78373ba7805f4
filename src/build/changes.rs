//! `--change`: instructions of a Dockerfile that alter the config of an image that is not built from one, as Docker's
//! `commit` and `import` take them.

use std::collections::BTreeMap;

use crate::diagnostic::{Diagnostic, Severity, Source};
use crate::dockerfile;
use crate::image::config::{ContainerConfig, ImageConfig};
use crate::plan::{self, needs};

/// Those that Docker allows, and SHELL.
const ALLOWED: [&str; 12] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The config after some instructions. Triggers of the image are not fired: nothing is built from it.
///
/// # Errors
/// What is wrong with the instructions, in words.
pub fn change_config(config: &ImageConfig, changes: &[String]) -> Result<ContainerConfig, String> {
    if changes.is_empty() {
        return Ok(config.config.clone());
    }
    for change in changes {
        let keyword = change.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        if !ALLOWED.contains(&keyword.as_str()) || change.contains('\n') {
            return Err(format!("{change:?}: expected one instruction of {}", ALLOWED.join(", ")));
        }
    }
    // Any name will do: the planner asks for its config, and gets this one.
    let text = format!("FROM changed\n{}\n", changes.join("\n"));
    let parsed = dockerfile::parse(&Source::new("--change", text));
    refuse(&parsed.diagnostics)?;
    let options = plan::Options { platform: Some(config.platform()), ..plan::Options::default() };
    let mut quiet = config.clone();
    quiet.config.on_build.clear();
    let missing = needs::needs(&parsed.dockerfile, &options, &BTreeMap::new()).map_err(|found| said(&found))?;
    let bases = missing.into_iter().map(|(key, _)| (key, quiet.clone())).collect();
    let plan = plan::plan(&parsed.dockerfile, &options, &bases).map_err(|found| said(&found))?;
    let mut changed = plan.result.config.config;
    // A build gives every image a PATH; an image that had none is not asked to have one now.
    let has_path = |entry: &String| entry.starts_with("PATH=");
    if !config.config.env.iter().any(has_path) && !changes.iter().any(|change| change.contains("PATH")) {
        changed.env.retain(|entry| !has_path(entry));
    }
    changed.on_build = config.config.on_build.iter().cloned().chain(changed.on_build).collect();
    Ok(changed)
}

fn refuse(diagnostics: &[Diagnostic]) -> Result<(), String> {
    match diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        true => Err(said(diagnostics)),
        false => Ok(()),
    }
}

fn said(diagnostics: &[Diagnostic]) -> String {
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
    errors.map(|diagnostic| diagnostic.message.clone()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(config: &ContainerConfig, changes: &[&str]) -> Result<ContainerConfig, String> {
        let config = ImageConfig {
            os: "linux".to_owned(),
            architecture: "arm64".to_owned(),
            config: config.clone(),
            ..ImageConfig::default()
        };
        change_config(&config, &changes.iter().map(|change| (*change).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn changes_mean_what_they_mean_in_a_dockerfile() {
        let before = ContainerConfig {
            env: vec!["PATH=/bin".to_owned()],
            working_dir: "/srv".to_owned(),
            on_build: vec!["RUN false".to_owned()],
            ..ContainerConfig::default()
        };
        let changes = [
            "CMD [\"/app\", \"-x\"]",
            "env PATH=/app:$PATH A=\"b c\"",
            "WORKDIR data",
            "LABEL a=1",
            "EXPOSE 80",
            "ONBUILD RUN true",
            "USER app",
            "STOPSIGNAL SIGINT",
        ];
        let after = changed(&before, &changes).unwrap();
        assert_eq!(after.cmd.unwrap(), ["/app", "-x"]);
        assert_eq!(after.env, ["PATH=/app:/bin", "A=b c"]);
        assert_eq!(after.working_dir, "/srv/data");
        assert_eq!(after.labels["a"], "1");
        assert!(after.exposed_ports.contains_key("80/tcp"));
        assert_eq!(after.on_build, ["RUN false", "RUN true"]);
        assert_eq!((after.user.as_str(), after.stop_signal.as_str()), ("app", "SIGINT"));
        assert_eq!(changed(&before, &[]).unwrap(), before);
        assert_eq!(changed(&ContainerConfig::default(), &["ENV A=1"]).unwrap().env, ["A=1"]);
    }

    #[test]
    fn what_would_build_something_is_refused() {
        for change in ["RUN true", "COPY a b", "FROM x", "", "CMD a\nRUN b", "ENV", "EXPOSE x/y/z"] {
            assert!(changed(&ContainerConfig::default(), &[change]).is_err(), "{change:?}");
        }
    }
}
