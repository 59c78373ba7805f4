//! `rbuild sbom`: what is told of the packages in an image.

use serde_json::Value;

use crate::harness::Rbuild;
use crate::leftovers::on_busybox;

const STATUS: &str = "Package: demo\nStatus: install ok installed\nMaintainer: A B <a@example.org>\nArchitecture: amd64\nVersion: 1.0-1\n\n\
    Package: removed\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 2\n";
const INSTALLED: &str = "P:musl\nV:1.2.5-r10\nA:x86_64\nL:MIT\n\n";
const METADATA: &str =
    "Metadata-Version: 2.4\nName: Demo_Tool\nVersion: 3\nLicense-Expression: Apache-2.0 OR MIT\n\nA text.\n";
const MANIFEST: &str = "{\"name\":\"@demo/pad\",\"version\":\"4.0.0\",\"license\":\"SEE LICENSE IN it\",\"_resolved\":\"https://me:hunter2@example.org\"}";

/// An image with a little of everything, of which a later layer removes a part.
const DOCKERFILE: &str = "\
COPY status /var/lib/dpkg/status
COPY installed /lib/apk/db/installed
COPY metadata /venv/demo_tool-3.dist-info/METADATA
COPY metadata /gone/demo_gone-3.dist-info/METADATA
COPY manifest /app/node_modules/@demo/pad/package.json
COPY lock /src/Cargo.lock
COPY status /var/lib/rpm/Packages
RUN rm -r /gone && echo ID=demo > /etc/os-release && ln -s / /app/node_modules/loop
";

fn document(rbuild: &Rbuild, image: &str) -> Value {
    let printed = rbuild.run(["sbom", "--format", "spdx-json", image]).succeeded().stdout;
    serde_json::from_str(&printed).expect("sbom prints JSON")
}

for_each_user! {
    fn the_packages_of_an_image_are_listed_for_people_and_for_programs(rbuild) {
        let context = match on_busybox(&rbuild, "packages", DOCKERFILE) {
            Ok(context) => context,
            Err(reason) => skip!("{reason}"),
        };
        let lock = "version = 4\n\n[[package]]\nname = \"libc\"\nversion = \"0.2.170\"\n";
        let context = context.file("status", STATUS).file("installed", INSTALLED).file("metadata", METADATA);
        let context = context.file("manifest", MANIFEST).file("lock", lock);
        rbuild.build(&context, &["-t", "packages:1"]).succeeded();
        let listed = rbuild.run(["sbom", "packages:1"]).succeeded();
        assert_eq!(
            listed.stdout,
            "NAME        VERSION     TYPE    LICENSE\n\
             demo        1.0-1       deb\n\
             musl        1.2.5-r10   apk     MIT\n\
             @demo/pad   4.0.0       npm     SEE LICENSE IN it\n\
             Demo_Tool   3           pypi    Apache-2.0 OR MIT\n\
             libc        0.2.170     cargo\n"
        );
        let archive = rbuild.path("packages.tar");
        let archive = archive.to_str().expect("UTF-8");
        rbuild.run(["save", "-o", archive, "packages:1"]).succeeded();
        let of_archive = rbuild.run(["sbom", &format!("docker-archive:{archive}")]).succeeded();
        assert_eq!(of_archive.stdout, listed.stdout);
        listed.says("warning: /var/lib/rpm/Packages: not read: rpm's database in Berkeley DB is not supported");
        let spdx = document(&rbuild, "packages:1");
        assert_eq!((&spdx["spdxVersion"], &spdx["name"]), (&"SPDX-2.3".into(), &"packages:1".into()));
        let packages = spdx["packages"].as_array().expect("a list");
        let urls: Vec<&str> =
            packages.iter().filter_map(|package| package["externalRefs"][0]["referenceLocator"].as_str()).collect();
        assert_eq!(
            urls,
            [
                "pkg:deb/demo/demo@1.0-1?arch=amd64&distro=demo",
                "pkg:apk/demo/musl@1.2.5-r10?arch=x86_64&distro=demo",
                "pkg:npm/%40demo/pad@4.0.0",
                "pkg:pypi/demo-tool@3",
                "pkg:cargo/libc@0.2.170",
            ]
        );
        let license = packages.iter().find(|package| package["name"] == "@demo/pad").expect("a package of npm");
        assert_eq!(license["licenseDeclared"], spdx["hasExtractedLicensingInfos"][0]["licenseId"]);
        assert_eq!(spdx, document(&rbuild, "packages:1"));
        let text = spdx.to_string();
        let own = rbuild.store().to_string_lossy().into_owned();
        assert!(!text.contains("hunter2") && !text.contains(&own), "{text}");
    }

    fn an_image_without_packages_and_one_that_is_not_there(rbuild) {
        rbuild.build(&rbuild.context("empty").file("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n"), &["-t", "empty:1"]).succeeded();
        assert_eq!(rbuild.run(["sbom", "empty:1"]).succeeded().stdout, "NAME   VERSION   TYPE   LICENSE\n");
        let spdx = document(&rbuild, "empty:1");
        assert_eq!(spdx["packages"].as_array().map(Vec::len), Some(1));
        assert_eq!(spdx["packages"][0]["primaryPackagePurpose"], "CONTAINER");
        rbuild.run(["sbom", "nowhere"]).failed(1).says("there is no image \"nowhere\"").says("rbuild pull");
        rbuild.run(["sbom", "--format", "cyclonedx", "empty:1"]).failed(2).says("expected table or spdx-json");
    }
}
