//! `# syntax=`: which frontend a file wants to be read by. One is built in: docker/dockerfile.

use super::Options;
use super::args::BuildArgs;
use crate::diagnostic::{Diagnostic, Span};
use crate::dockerfile::ast::Directives;
use crate::image::reference::Reference;

/// Refuses a frontend that this binary does not bring.
pub fn refused_frontend(directives: &Directives, options: &Options) -> Option<Diagnostic> {
    let build_args = BuildArgs::new(options);
    let given = build_args.value("BUILDKIT_SYNTAX").map(|text| (text, Span::default()));
    let written = directives.syntax.as_ref().map(|word| (word.value.as_str(), word.span));
    let (text, span) = given.or(written)?;
    let name = text.split_whitespace().next().filter(|name| !is_built_in(name))?;
    let message = format!("the frontend {name} cannot be run: only docker/dockerfile is built in");
    let help = match given {
        Some(_) => "leave the build argument BUILDKIT_SYNTAX out",
        None => "remove the syntax line, or write `# syntax=docker/dockerfile:1` if the file is a Dockerfile",
    };
    Some(Diagnostic::error(span, message).help(help))
}

/// Whether a name is of the frontend that is built in. A mirror's copy of it is the same frontend.
fn is_built_in(name: &str) -> bool {
    name == "dockerfile.v0"
        || name.parse::<Reference>().is_ok_and(|reference| {
            let repository = format!("/{}", reference.repository());
            repository.ends_with("/docker/dockerfile") || repository.ends_with("/docker/dockerfile-upstream")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_official_frontend_is_built_in() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for name in [
            "docker/dockerfile",
            "docker/dockerfile:1",
            "docker/dockerfile:1.7-labs",
            "docker/dockerfile:labs",
            "docker.io/docker/dockerfile:1",
            "index.docker.io/docker/dockerfile:1.4",
            "docker/dockerfile-upstream:master-labs",
            "registry.example.org:5000/mirror/docker/dockerfile:1",
            "dockerfile.v0",
            &format!("docker/dockerfile:1@{digest}"),
            &format!("docker.io/docker/dockerfile@{digest}"),
        ] {
            assert!(is_built_in(name), "{name}");
        }
        for name in [
            "dockerfile",
            "dockerfile:1",
            "docker/dockerfile2",
            "notdocker/dockerfile",
            "a/dockerfile",
            "%",
            "gateway.v0",
        ] {
            assert!(!is_built_in(name), "{name}");
        }
    }
}
