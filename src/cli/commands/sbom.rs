//! `rbuild sbom`: the packages in an image.

use super::archive::{Workshop, shown};
use super::image::choose_for;
use super::list::{pretty, table};
use super::{open_store, print, say};
use crate::build::scan_image;
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::request::ReportFormat;
use crate::cli::request::sbom::ListContents;
use crate::image::reference::Reference;
use crate::sbom::{Document, Package};
use crate::store::Tagged;

/// `rbuild sbom`.
pub(super) fn sbom(request: &ListContents, environment: &Environment) -> Result<(), Failure> {
    let store = open_store(&request.store_root)?;
    let tagged = choose_for(&store, &request.image, request.platform.as_ref()).map_err(|failure| {
        match &request.image.archive {
            Some(_) => failure,
            None => failure.hint("`rbuild pull` brings one from a registry"),
        }
    })?;
    let workshop = Workshop::new(&store);
    let layers = workshop.layers(&store);
    let document = shown(environment, |progress| scan_image(&layers, &tagged.image, &name(&tagged), progress))?;
    for notice in document.notices() {
        say(&format!("warning: {}: {}", notice.path, notice.text));
    }
    match request.format {
        ReportFormat::Json => print(&pretty(&document.to_value())?),
        ReportFormat::Text => print(&table(&rows(&document))),
    }
}

fn name(tagged: &Tagged) -> String {
    tagged.name.parse::<Reference>().map_or_else(|_| tagged.name.clone(), |name| name.familiar())
}

fn rows(document: &Document) -> Vec<Vec<String>> {
    let heading = ["NAME", "VERSION", "TYPE", "LICENSE"].map(str::to_owned).to_vec();
    let row = |package: &Package| {
        let Package { name, version, ecosystem, license, .. } = package;
        vec![name.clone(), version.clone(), ecosystem.to_string(), license.clone()]
    };
    std::iter::once(heading).chain(document.packages().iter().map(row)).collect()
}
