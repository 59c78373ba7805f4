//! What cannot be said of outputs together with the platforms that are built: told before anything is built.

use super::{ContextSource, Destination, InvalidRequest, OutputKind, OutputRequest};
use crate::build::Attestations;
use crate::export::{Annotation, AnnotationTarget};
use crate::image::platform::Platform;

/// Refuses what BuildKit's exporters refuse at the end of a build.
pub(super) fn check(
    outputs: &[OutputRequest],
    annotations: &[Annotation],
    platforms: &[Platform],
    attestations: &Attestations,
) -> Result<(), InvalidRequest> {
    let contradiction =
        |problem: &str, hint: String| Err(InvalidRequest::Contradiction { problem: problem.to_owned(), hint });
    if let [first, _, ..] = platforms
        && outputs.iter().any(|output| output.kind == OutputKind::Docker)
    {
        let problem = "docker exporter does not currently support exporting manifest lists";
        return contradiction(problem, format!("write type=oci, or build for one platform: --platform {first}"));
    }
    check_attestations(outputs, attestations)?;
    let of_outputs = outputs.iter().flat_map(|output| output.annotations.iter().map(move |one| (one, Some(output))));
    for (one, output) in annotations.iter().map(|one| (one, None)).chain(of_outputs) {
        check_annotation(one, platforms, attestations)?;
        let is_docker = |output: &OutputRequest| output.switch("oci-mediatypes") == Some(false);
        if one.target != AnnotationTarget::Manifest && output.map_or_else(|| outputs.iter().any(is_docker), is_docker) {
            let problem = "cannot export annotations with \"oci-mediatypes=false\"";
            return contradiction(
                problem,
                "leave one of them out: Docker's media types have no annotations".to_owned(),
            );
        }
    }
    Ok(())
}

/// Refuses `mode=delete` where it would take away what is built from.
pub(super) fn check_removal(outputs: &[OutputRequest], context: &ContextSource) -> Result<(), InvalidRequest> {
    for output in outputs {
        let removes = output.attributes.get("mode").is_some_and(|mode| mode == "delete");
        let Some(Destination::Path(path)) = output.destination.as_ref().filter(|_| removes) else { continue };
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        let holds_context = match context {
            ContextSource::Directory(context) | ContextSource::Archive(context) => {
                context.canonicalize().is_ok_and(|context| context.starts_with(&real))
            }
            ContextSource::Stdin | ContextSource::Git(_) | ContextSource::Http(_) => false,
        };
        if holds_context || real.parent().is_none() {
            return Err(InvalidRequest::Contradiction {
                problem: format!("mode=delete would remove all other files in {}", path.display()),
                hint: "give it a directory of its own: -o type=local,mode=delete,dest=out".to_owned(),
            });
        }
    }
    Ok(())
}

/// Refuses attestations where an output has no place for them.
fn check_attestations(outputs: &[OutputRequest], attestations: &Attestations) -> Result<(), InvalidRequest> {
    if !attestations.are_wanted() {
        return Ok(());
    }
    let contradiction = |problem: &str, hint: &str| {
        Err(InvalidRequest::Contradiction { problem: problem.to_owned(), hint: hint.to_owned() })
    };
    if outputs.iter().any(|output| output.kind == OutputKind::Docker) {
        let problem = "docker exporter does not support attestations, which lie under an index";
        return contradiction(problem, "write type=oci, or leave --provenance, --sbom and --attest out");
    }
    if outputs.iter().any(|output| output.switch("oci-mediatypes") == Some(false)) {
        let problem = "cannot export attestations with \"oci-mediatypes=false\"";
        return contradiction(problem, "leave one of them out: Docker's media types have no attestations");
    }
    Ok(())
}

fn check_annotation(
    one: &Annotation,
    platforms: &[Platform],
    attestations: &Attestations,
) -> Result<(), InvalidRequest> {
    let is_about_index = matches!(one.target, AnnotationTarget::Index | AnnotationTarget::IndexDescriptor);
    if is_about_index && platforms.len() < 2 && !attestations.are_wanted() {
        return Err(InvalidRequest::Contradiction {
            problem: "index annotations not supported for single platform export".to_owned(),
            hint: format!("one platform has no index; put it on the manifest: manifest:{}", one.key),
        });
    }
    match &one.platform {
        Some(platform) if is_about_index => Err(InvalidRequest::Contradiction {
            problem: format!("an index is for all platforms and has no annotation for {platform}"),
            hint: "leave the platform out, or put it on the platform's manifest".to_owned(),
        }),
        Some(platform) if !platforms.contains(platform) => {
            let built: Vec<String> = platforms.iter().map(Platform::to_string).collect();
            Err(InvalidRequest::Contradiction {
                problem: format!("invalid annotation: no platform {platform} found in source"),
                hint: format!("it is built for {}", built.join(", ")),
            })
        }
        _ => Ok(()),
    }
}
