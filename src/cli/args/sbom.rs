//! What `sbom` takes.

use clap::Args;

use super::words::WordArgument;

pub(super) const SBOM_HELP: &str = "\
Reads the databases of dpkg, apk and rpm (SQLite), what npm and pip installed, lock files of
npm and cargo, and the lists that Go and `cargo auditable` put into programs. Nothing is run and
nothing unpacked. What is there but cannot be read is told on standard error and in the document.

Examples:
  rbuild sbom app
  rbuild sbom oci-archive:app.tar
  rbuild sbom --format spdx-json app > app.spdx.json     for grype, trivy, osv-scanner, an audit
  rbuild sbom --format spdx-json app | jq -r '.packages[].externalRefs[]?.referenceLocator'";

/// What `sbom` takes.
#[derive(Debug, Args)]
pub struct SbomArguments {
    /// A name, an id or an archive: oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME]
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Print table, or spdx-json (SPDX 2.3)
    #[arg(long, value_name = "FORMAT", default_value = "table", words(&["table", "spdx-json"]))]
    pub format: String,
    /// Of a name with several platforms, this one [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
}
