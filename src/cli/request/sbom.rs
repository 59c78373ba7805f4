//! What `sbom` was asked to do.

use std::path::PathBuf;

use super::archive::optional_platform;
use super::commands::ImageSelector;
use super::fields::Given;
use super::{InvalidRequest, ReportFormat, store_root};
use crate::cli::args::{GlobalArguments, SbomArguments};
use crate::cli::environment::Environment;
use crate::image::platform::Platform;

/// `sbom`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListContents {
    /// Where images live.
    pub store_root: PathBuf,
    /// Which.
    pub image: ImageSelector,
    /// Of a name with several platforms, this one.
    pub platform: Option<Platform>,
    /// Who reads it: programs get SPDX.
    pub format: ReportFormat,
}

impl ListContents {
    pub(in crate::cli) fn resolve(
        arguments: SbomArguments,
        global: &GlobalArguments,
        environment: &Environment,
    ) -> Result<ListContents, InvalidRequest> {
        let format = match arguments.format.as_str() {
            "table" | "text" => ReportFormat::Text,
            "spdx-json" | "spdx" | "json" => ReportFormat::Json,
            value => return Err(Given { flag: "--format", value, expected: "table or spdx-json" }.invalid()),
        };
        Ok(ListContents {
            store_root: store_root(global, environment)?,
            image: ImageSelector::parse_with_archives(&arguments.image, environment)?,
            platform: optional_platform(arguments.platform.as_deref())?,
            format,
        })
    }
}
