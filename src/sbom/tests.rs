//! Whole scans, over layers that are made here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;

use super::elf::tests::program;
use super::go::tests::blob;
use super::*;
use crate::layer::flatten::Source;
use crate::layer::index::index_tar;
use crate::layer::write::TarWriter;
use crate::tree::{Kind, Node, Time, View};

fn subject() -> Subject {
    let kind = SubjectKind::Image {
        id: Digest::of(b"config"),
        manifest: Some(Digest::of(b"manifest")),
        platform: Platform::new("linux", "amd64", ""),
    };
    Subject { name: "registry.example.org:5000/team/app:1.0".to_owned(), kind, created: 1_700_000_000 }
}

/// What an entry of a layer is made of.
enum Part<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
    Link(&'a str),
    Removal,
}

fn layer(parts: &[(&str, Part<'_>)]) -> Source {
    let mut tar = TarWriter::new(Vec::new());
    for (path, part) in parts {
        let plain = Node::directory(Time::default());
        let content: &[u8] = match part {
            Part::Text(text) => text.as_bytes(),
            Part::Bytes(bytes) => bytes,
            Part::Link(target) => {
                let node = Node { kind: Kind::Symlink(target.as_bytes().to_vec()), ..plain };
                tar.append(path.as_bytes(), &node, None, &mut io::empty()).unwrap();
                continue;
            }
            Part::Removal => {
                tar.whiteout(path.as_bytes()).unwrap();
                continue;
            }
        };
        let node = Node { kind: Kind::File { size: content.len() as u64, digest: None }, ..plain };
        tar.append(path.as_bytes(), &node, None, &mut &*content).unwrap();
    }
    source(tar.finish().unwrap())
}

fn source(tar: Vec<u8>) -> Source {
    let (index, _, _) = index_tar(&*tar).unwrap();
    let tar: Arc<[u8]> = tar.into();
    let open = Arc::new(move || Ok(Box::new(io::Cursor::new(Arc::clone(&tar))) as Box<dyn Read + Send>));
    Source { index: Arc::new(index), open }
}

fn scanned(layers: Vec<Source>) -> Document {
    scan(&LayerFiles::new(layers), &subject()).unwrap()
}

fn urls(document: &Document) -> Vec<String> {
    document.packages().iter().map(|package| document.url_of(package)).collect()
}

fn paragraph(name: &str, version: &str) -> String {
    format!(
        "Package: {name}\nStatus: install ok installed\nMaintainer: A B <a@example.org>\nArchitecture: amd64\nVersion: {version}\n\n"
    )
}

fn everything() -> Vec<Source> {
    let app = program(&[], &[(".go.buildinfo", &blob("go1.24.4", "mod\texample.org/app\tv1.0.0\n"))]);
    let base = layer(&[
        ("etc/os-release", Part::Link("../usr/lib/os-release")),
        ("usr/lib/os-release", Part::Text("ID=debian\nVERSION_ID=\"13\"\n")),
        ("var/lib/dpkg/status", Part::Text(&paragraph("removed-later", "1"))),
        ("usr/lib/python3/dist-packages/gone-1.dist-info/METADATA", Part::Text("Name: gone\nVersion: 1\n")),
        ("lib/apk/db/installed", Part::Text("P:musl\nV:1.2.5-r10\nA:x86_64\nL:MIT\n\n")),
    ]);
    let top = layer(&[
        ("var/lib/dpkg/status", Part::Text(&(paragraph("bash", "5.2.37-2+b3") + &paragraph("tzdata", "2025b")))),
        ("usr/lib/python3/dist-packages/gone-1.dist-info", Part::Removal),
        (
            "app/node_modules/left-pad/package.json",
            Part::Text(r#"{"name":"left-pad","version":"1.3.0","license":"WTFPL"}"#),
        ),
        (
            "other/node_modules/left-pad/package.json",
            Part::Text(r#"{"name":"left-pad","version":"1.3.0","license":"WTFPL"}"#),
        ),
        ("app/package-lock.json", Part::Text(r#"{"packages":{"node_modules/build-tool":{"version":"1.0.0"}}}"#)),
        ("src/Cargo.lock", Part::Text("[[package]]\nname = \"libc\"\nversion = \"0.2.170\"\n")),
        ("usr/bin/app", Part::Bytes(&app)),
        ("var/lib/rpm/rpmdb.sqlite", Part::Bytes(include_bytes!("../../testdata/sbom/rpmdb.sqlite"))),
        ("var/lib/rpm/Packages", Part::Text("hash")),
        ("venv/lib/x-2.dist-info/METADATA", Part::Text("Name: X_Y\nVersion: 2\nLicense: Some License\n\nText")),
    ]);
    vec![base, top]
}

#[test]
fn what_the_topmost_layers_show_is_listed_once_with_the_places_that_say_so() {
    let document = scanned(everything());
    let found: Vec<String> = urls(&document).into_iter().filter(|url| !url.contains("demo-")).collect();
    assert_eq!(
        found,
        [
            "pkg:deb/debian/bash@5.2.37-2%2Bb3?arch=amd64&distro=debian-13",
            "pkg:deb/debian/tzdata@2025b?arch=amd64&distro=debian-13",
            "pkg:apk/debian/musl@1.2.5-r10?arch=x86_64&distro=debian-13",
            "pkg:npm/left-pad@1.3.0",
            "pkg:pypi/x-y@2",
            "pkg:cargo/libc@0.2.170",
            "pkg:golang/example.org/app@v1.0.0",
            "pkg:golang/stdlib@1.24.4",
        ]
    );
    let pad = document.packages().iter().find(|package| package.name == "left-pad").unwrap();
    assert_eq!(pad.locations.len(), 2);
    let notices: Vec<&str> = document.notices().iter().map(|notice| notice.path.as_str()).collect();
    assert_eq!(notices, ["/var/lib/rpm/Packages"]);
}

#[test]
fn the_same_files_give_the_same_bytes_and_any_other_a_namespace_of_its_own() {
    let (once, again) = (scanned(everything()), scanned(everything()));
    assert_eq!(once.to_bytes(), again.to_bytes());
    let namespace = |document: &Document| document.to_value()["documentNamespace"].as_str().unwrap().to_owned();
    let mut other = everything();
    other.push(layer(&[("var/lib/dpkg/status", Part::Text(&paragraph("bash", "6")))]));
    assert_ne!(namespace(&once), namespace(&scanned(other)));
    assert!(!String::from_utf8(once.to_bytes()).unwrap().contains('\n'));
}

/// What SPDX 2.3's schema (`schemas/spdx-schema.json`) and the specification's rules ask of the parts that are written.
pub(super) fn check_spdx(document: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned();
    for key in ["SPDXID", "creationInfo", "dataLicense", "name", "spdxVersion", "documentNamespace"] {
        assert!(!document[key].is_null(), "{key} is missing");
    }
    assert_eq!((&document["spdxVersion"], &document["dataLicense"]), (&"SPDX-2.3".into(), &"CC0-1.0".into()));
    let created = text(&document["creationInfo"]["created"]);
    assert!(created.len() == 20 && created.ends_with('Z'), "{created}");
    let namespace = text(&document["documentNamespace"]);
    assert!(namespace.starts_with("https://") && !namespace.contains(['#', ' ']), "{namespace}");
    let mut ids = BTreeSet::from(["SPDXRef-DOCUMENT".to_owned()]);
    let is_id = |id: &str, prefix: &str| {
        let rest = id.strip_prefix(prefix).unwrap_or_default();
        !rest.is_empty() && rest.chars().all(|character| character.is_ascii_alphanumeric() || ".-".contains(character))
    };
    let empty = Vec::new();
    let licenses: Vec<String> = document["hasExtractedLicensingInfos"]
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .map(|one| text(&one["licenseId"]))
        .collect();
    assert!(licenses.iter().all(|id| is_id(id, "LicenseRef-")), "{licenses:?}");
    for package in document["packages"].as_array().unwrap() {
        let id = text(&package["SPDXID"]);
        assert!(is_id(&id, "SPDXRef-"), "{id}");
        assert!(ids.insert(id.clone()), "{id} comes twice");
        assert!(!text(&package["name"]).is_empty());
        assert_eq!((&package["filesAnalyzed"], &package["downloadLocation"]), (&false.into(), &"NOASSERTION".into()));
        let license = text(&package["licenseDeclared"]);
        let is_listed = ::spdx::Expression::parse_mode(
            &license,
            ::spdx::ParseMode { allow_deprecated: true, ..::spdx::ParseMode::STRICT },
        );
        assert!(license == "NOASSERTION" || licenses.contains(&license) || is_listed.is_ok(), "{license}");
        for reference in package["externalRefs"].as_array().unwrap_or(&empty) {
            assert_eq!(
                (&reference["referenceCategory"], &reference["referenceType"]),
                (&"PACKAGE-MANAGER".into(), &"purl".into())
            );
            let url = text(&reference["referenceLocator"]);
            assert!(url.starts_with("pkg:") && !url.contains(' '), "{url}");
        }
    }
    let relationships = document["relationships"].as_array().unwrap();
    assert_eq!(relationships.len(), ids.len() - 1);
    assert_eq!(relationships.iter().filter(|one| one["relationshipType"] == "DESCRIBES").count(), 1);
    for one in relationships {
        assert!(ids.contains(&text(&one["spdxElementId"])) && ids.contains(&text(&one["relatedSpdxElement"])), "{one}");
    }
}

#[test]
fn the_document_is_what_spdx_asks_for() {
    let document = scanned(everything()).to_value();
    check_spdx(&document);
    let root = &document["packages"][0];
    assert_eq!(root["primaryPackagePurpose"], "CONTAINER");
    assert_eq!(root["checksums"][0]["checksumValue"], Digest::of(b"manifest").hex());
    let url = root["externalRefs"][0]["referenceLocator"].as_str().unwrap();
    assert!(url.starts_with("pkg:oci/app@sha256:"), "{url}");
    assert!(url.ends_with("?arch=amd64&repository_url=registry.example.org:5000%2Fteam%2Fapp&tag=1.0"), "{url}");
    assert_eq!(document["creationInfo"]["created"], "2023-11-14T22:13:20Z");
    assert!(document["comment"].as_str().unwrap().contains("/var/lib/rpm/Packages: not read"));
    let bash = document["packages"].as_array().unwrap().iter().find(|package| package["name"] == "bash").unwrap();
    assert_eq!(bash["originator"], "Person: A B (a@example.org)");
    assert_eq!(bash["sourceInfo"], "found by what is said in /var/lib/dpkg/status");
    let unnamed = Subject { name: Digest::of(b"config").to_string(), ..subject() };
    let unnamed = scan(&LayerFiles::new(Vec::new()), &unnamed).unwrap().to_value();
    check_spdx(&unnamed);
    assert_eq!(unnamed["packages"][0]["externalRefs"], Value::Null);
    check_spdx(
        &scan(&LayerFiles::new(Vec::new()), &Subject { kind: SubjectKind::Directory, ..subject() }).unwrap().to_value(),
    );
}

#[test]
fn links_lead_nowhere_and_hard_links_are_read_once() {
    let hostile = layer(&[
        ("var/lib/dpkg/status", Part::Link("../../../../../../etc/passwd")),
        ("lib/apk/db/installed", Part::Link("/proc/self/environ")),
        ("loop", Part::Link("loop")),
        ("app/node_modules", Part::Link("/")),
    ]);
    assert_eq!(urls(&scanned(vec![hostile])), Vec::<String>::new());
    let node = |size| Node { kind: Kind::File { size, digest: None }, ..Node::directory(Time::default()) };
    let mut tar = TarWriter::new(Vec::new());
    let text = paragraph("a", "1");
    // A link of the layer itself leads to where the file lies, as it does for whoever unpacks it.
    let link = Node { kind: Kind::Symlink(b"real".to_vec()), ..Node::directory(Time::default()) };
    tar.append(b"real", &Node::directory(Time::default()), None, &mut io::empty()).unwrap();
    tar.append(b"var", &link, None, &mut io::empty()).unwrap();
    tar.append(b"x/first", &node(text.len() as u64), None, &mut text.as_bytes()).unwrap();
    tar.append(b"chroot/var/lib/dpkg/status", &node(0), Some(b"x/first"), &mut io::empty()).unwrap();
    assert_eq!(urls(&scanned(vec![source(tar.finish().unwrap())])), ["pkg:deb/debian/a@1?arch=amd64"]);
}

#[test]
fn of_several_entries_of_one_name_the_last_counts() {
    let mut tar = TarWriter::new(Vec::new());
    for text in [paragraph("first", "1") + &paragraph("more", "1"), paragraph("last", "1")] {
        let kind = Kind::File { size: text.len() as u64, digest: None };
        let node = Node { kind, ..Node::directory(Time::default()) };
        tar.append(b"var/lib/dpkg/status", &node, None, &mut text.as_bytes()).unwrap();
    }
    assert_eq!(urls(&scanned(vec![source(tar.finish().unwrap())])), ["pkg:deb/debian/last@1?arch=amd64"]);
}

/// Files in memory.
struct Plain(BTreeMap<Vec<u8>, Vec<u8>>);

impl View for Plain {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        let directory = Node::directory(Time::default());
        let below = [path, b"/"].concat();
        Ok(match self.0.get(path) {
            Some(content) => Some(Node { kind: Kind::File { size: content.len() as u64, digest: None }, ..directory }),
            None => self.0.keys().any(|other| other.starts_with(&below)).then_some(directory),
        })
    }

    fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let below = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let name = |other: &Vec<u8>| Some(other.strip_prefix(&below[..])?.split(|byte| *byte == b'/').next()?.to_vec());
        let names: BTreeSet<Vec<u8>> = self.0.keys().filter_map(name).collect();
        Ok(names.into_iter().collect())
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(&self.0[path][..]))
    }
}

#[test]
fn a_tree_gives_what_a_layer_with_its_files_gives() {
    let program = program(&[1; 100], &[(".dep-v0", &audit()), (".go.buildinfo", &blob("go1.24.4", "x"))]);
    let status = paragraph("bash", "5");
    let lock = r#"{"packages":{"node_modules/a":{"version":"1.0.0"}}}"#;
    let files =
        [("var/lib/dpkg/status", status.as_bytes()), ("bin/x", &program), ("src/package-lock.json", lock.as_bytes())];
    let tree = Plain(files.iter().map(|(path, content)| (path.as_bytes().to_vec(), content.to_vec())).collect());
    let layer = layer(&files.map(|(path, content)| (path, Part::Bytes(content))));
    let of_tree = scan(&TreeFiles::new(&tree), &subject()).unwrap();
    assert_eq!(of_tree, scanned(vec![layer]));
    let found =
        ["pkg:deb/debian/bash@5?arch=amd64", "pkg:npm/a@1.0.0", "pkg:cargo/app@0.1.0", "pkg:golang/stdlib@1.24.4"];
    assert_eq!(urls(&of_tree), found);
}

/// What `cargo auditable` puts into a program.
fn audit() -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(br#"{"packages":[{"name":"app","version":"0.1.0","source":"local","root":true}]}"#).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn what_is_malformed_or_too_large_is_noted_and_nothing_of_it_is_believed() {
    let long = "x".repeat(5000);
    let huge = format!("{{\"name\":\"{}\"}}", "y".repeat(5 << 20));
    let document = scanned(vec![layer(&[
        ("var/lib/dpkg/status", Part::Text(&(paragraph(&long, "1") + &paragraph("ok", "1")))),
        ("a/node_modules/a/package.json", Part::Text("{\"name\": \"secret\u{1b}[31m")),
        ("a/node_modules/b/package.json", Part::Text(&huge)),
        ("a/node_modules/c/package.json", Part::Text("{\"name\":\"c\\u001b\",\"version\":\"1\"}")),
        ("Cargo.lock", Part::Text("package = 1")),
        ("var/lib/rpm/rpmdb.sqlite", Part::Text("SQLite format 3\0...")),
        ("bin/old-go", Part::Bytes(&program(&[], &[(".go.buildinfo", &[go::MAGIC, &[8, 0], &[1; 16]].concat())]))),
        ("bin/bad-rust", Part::Bytes(&program(&[], &[(".dep-v0", b"not zlib")]))),
    ])]);
    assert_eq!(urls(&document), ["pkg:deb/debian/ok@1?arch=amd64"]);
    let notices: Vec<&str> = document.notices().iter().map(|notice| notice.path.as_str()).collect();
    assert_eq!(
        notices,
        [
            "/Cargo.lock",
            "/a/node_modules/a/package.json",
            "/a/node_modules/b/package.json",
            "/a/node_modules/c/package.json",
            "/bin/bad-rust",
            "/bin/old-go",
            "/var/lib/dpkg/status",
            "/var/lib/rpm/rpmdb.sqlite",
        ]
    );
    assert!(document.notices().iter().all(|notice| notice.text.len() < 300));
    check_spdx(&document.to_value());
}

#[test]
fn nothing_but_names_gets_into_a_document() {
    let lock =
        r#"{"packages":{"node_modules/a":{"version":"1.0.0","resolved":"https://me:hunter2@npm.example/a.tgz"}}}"#;
    let crates = "[[package]]\nname=\"c\"\nversion=\"1.0.0\"\nsource=\"registry+https://me:hunter2@crates.example/\"\n";
    let list = blob("go1.24.4", "mod\texample.org/app\t\nbuild\t-ldflags=\"-X main.token=hunter2\"\n");
    let document = scanned(vec![layer(&[
        ("package-lock.json", Part::Text(lock)),
        ("Cargo.lock", Part::Text(crates)),
        ("app", Part::Bytes(&program(&[], &[(".go.buildinfo", &list)]))),
        ("x.dist-info/METADATA", Part::Text("Name: x\nVersion: 1\nHome-page: https://me:hunter2@example.org\n")),
        ("node_modules_off/y/package.json", Part::Text("{\"_resolved\":\"hunter2\"}")),
    ])]);
    assert_eq!(document.packages().len(), 5);
    assert!(!String::from_utf8(document.to_bytes()).unwrap().contains("hunter2"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever files hold, there is a document, and it is one.
    #[test]
    fn no_file_stops_a_scan(bytes in proptest::collection::vec(any::<u8>(), 0..2000), text in "(?s)[a-zA-Z:\\[\\]{}\"= \n<>/@.,]{0,300}") {
        for content in [bytes.as_slice(), text.as_bytes()] {
            let head = [b"\x7fELF\x02\x01", content].concat();
            let document = scanned(vec![layer(&[
                ("etc/os-release", Part::Bytes(&[b"ID=", content].concat())),
                ("var/lib/dpkg/status", Part::Bytes(&[b"Package: a\nVersion: ", content].concat())),
                ("lib/apk/db/installed", Part::Bytes(&[b"P:a\nV:1\nm:", content, b"\nL:", content].concat())),
                ("var/lib/rpm/rpmdb.sqlite", Part::Bytes(&[b"SQLite format 3\0", content].concat())),
                ("node_modules/a/package.json", Part::Bytes(content)),
                ("x/package-lock.json", Part::Bytes(content)),
                ("a.dist-info/METADATA", Part::Bytes(&[b"Name: x\nVersion: 1\nLicense: ", content].concat())),
                ("Cargo.lock", Part::Bytes(content)),
                ("bin/a", Part::Bytes(&head)),
            ])]);
            check_spdx(&document.to_value());
        }
    }
}
