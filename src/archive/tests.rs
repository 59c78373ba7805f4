//! Archives, good and hostile.

use std::io::Cursor;

use super::*;

/// Names and contents of an archive.
type Entries<'a> = Vec<(&'a str, &'a [u8])>;

/// A tar of files, and of links where the content begins with `->`.
fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        // Written as they are: the crate's own way to set a name refuses those that a hostile archive has.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o644);
        match content.strip_prefix(b"->") {
            Some(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
                header.set_size(0);
                header.set_cksum();
                archive.append(&header, &[][..]).unwrap();
            }
            None => {
                header.set_size(content.len() as u64);
                header.set_cksum();
                archive.append(&header, *content).unwrap();
            }
        }
    }
    archive.into_inner().unwrap()
}

fn read_bytes(bytes: Vec<u8>) -> Result<Vec<ArchivedImage>, ArchiveError> {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    read(&store, Origin::Stream { name: "x.tar".to_owned(), reader: Box::new(Cursor::new(bytes)) })
}

fn refusal(entries: &[(&str, &[u8])]) -> String {
    let error = read_bytes(tar(entries)).unwrap_err();
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

const CONFIG: &[u8] = br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}"#;

/// The name and text of a manifest of CONFIG and one layer, and an index that names it.
fn oci(layer: &[u8], annotations: &str) -> (Vec<u8>, Vec<u8>) {
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
        Digest::of(CONFIG),
        CONFIG.len(),
        Digest::of(layer),
        layer.len()
    )
    .into_bytes();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{},"annotations":{{{annotations}}}}}]}}"#,
        Digest::of(&manifest),
        manifest.len()
    );
    (manifest, index.into_bytes())
}

fn names(image: &ArchivedImage) -> Vec<String> {
    image.names.iter().map(ToString::to_string).collect()
}

#[test]
fn a_layout_is_read_whatever_the_order_of_its_files() {
    let layer = b"layer";
    for (annotations, expected) in [
        (
            r#""io.containerd.image.name":"docker.io/library/a:1","org.opencontainers.image.ref.name":"1""#,
            vec!["docker.io/library/a:1"],
        ),
        (r#""org.opencontainers.image.ref.name":"localhost/a:1""#, vec!["localhost/a:1"]),
        (r#""org.opencontainers.image.ref.name":"latest""#, vec![]),
        ("", vec![]),
    ] {
        let (manifest, index) = oci(layer, annotations);
        let mut entries: Vec<(String, &[u8])> = vec![
            ("index.json".to_owned(), &index),
            (blob(&manifest), &manifest),
            (blob(CONFIG), CONFIG),
            (blob(layer), layer),
            ("oci-layout".to_owned(), b"{}"),
        ];
        for _ in 0..2 {
            let list: Vec<(&str, &[u8])> = entries.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
            let images = read_bytes(tar(&list)).unwrap();
            assert_eq!(names(&images[0]), expected);
            assert_eq!(images[0].manifest.as_ref(), Some(&manifest));
            assert_eq!((images[0].config.as_slice(), images.len()), (CONFIG, 1));
            assert_eq!(images[0].layers, [(Digest::of(layer), 5)]);
            entries.reverse();
        }
    }
}

#[test]
fn an_archive_of_docker_is_read_with_its_links() {
    let manifest = br#"[{"Config":"c.json","RepoTags":["a:1","b"],"Layers":["x/layer.tar","y/layer.tar"]},{"Config":"c.json","RepoTags":null,"Layers":[]}]"#;
    let entries: [(&str, &[u8]); 6] = [
        ("x/layer.tar", b"one"),
        ("y/layer.tar", b"->../x/layer.tar"),
        ("x/json", b"{}"),
        ("c.json", CONFIG),
        ("manifest.json", manifest),
        ("repositories", b"{}"),
    ];
    let images = read_bytes(tar(&entries)).unwrap();
    assert_eq!(names(&images[0]), ["docker.io/library/a:1", "docker.io/library/b:latest"]);
    assert_eq!(images[0].layers, [(Digest::of(b"one"), 3); 2]);
    assert_eq!((names(&images[1]), &images[1].manifest), (vec![], &None));
}

#[test]
fn hostile_and_broken_archives_are_refused() {
    let layer = b"layer";
    let (manifest, index) = oci(layer, "");
    let (manifest_name, config_name, layer_name) = (blob(&manifest), blob(CONFIG), blob(layer));
    let whole: Entries<'_> =
        vec![(&manifest_name, &manifest), (&config_name, CONFIG), (&layer_name, layer), ("index.json", &index)];
    let with = |change: &dyn Fn(&mut Entries<'_>)| {
        let mut entries = whole.clone();
        change(&mut entries);
        refusal(&entries)
    };
    let forged = with(&|entries| entries[2].1 = b"other");
    assert!(forged.contains("is not what its name promises"), "{forged}");
    let missing = with(&|entries| _ = entries.remove(2));
    assert!(missing.contains("is not complete: sha256:"), "{missing}");
    assert!(with(&|entries| _ = entries.remove(0)).contains("is not complete"));
    assert!(with(&|entries| entries.push(("index.json", b"{}"))).contains("is in it twice"));
    assert!(with(&|entries| entries.push(("blobs/sha256/../../x.tar", b"x"))).contains("refused tar entry"));
    assert!(with(&|entries| entries.push(("blobs/sha256/abc", b"x"))).contains("has no digest for a name"));
    assert!(with(&|entries| entries.push(("a/layer.tar", b"->../../etc/passwd"))).contains("leads out of it"));
    assert!(with(&|entries| entries.push(("a/layer.tar", b"->/etc/passwd"))).contains("leads out of it"));
    assert!(with(&|entries| entries[3].1 = b"{}").contains("index.json"));
    let docker: [(&str, &[u8]); 2] =
        [("manifest.json", br#"[{"Config":"/etc/passwd","Layers":[]}]"#), ("a.json", CONFIG)];
    assert!(refusal(&docker).contains("is not complete: /etc/passwd"));
    let circle: [(&str, &[u8]); 2] =
        [("manifest.json", br#"[{"Config":"a.json","Layers":[]}]"#), ("a.json", b"->a.json")];
    assert!(refusal(&circle).contains("a link to a link"));
    assert!(refusal(&[("etc/passwd", b"x")]).contains("holds no image"));
    assert!(read_bytes(b"no tar at all".repeat(100)).is_err());
}

#[test]
fn in_a_directory_no_link_is_followed() {
    let layer = b"layer";
    let (manifest, index) = oci(layer, "");
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let layout = folder.path().join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    for (name, bytes) in [
        ("index.json".to_owned(), index.as_slice()),
        (blob(&manifest), &manifest),
        (blob(CONFIG), CONFIG),
        (blob(layer), layer),
    ] {
        std::fs::write(layout.join(name), bytes).unwrap();
    }
    assert_eq!(read(&store, Origin::Directory(layout.clone())).unwrap().len(), 1);
    std::fs::rename(layout.join(blob(layer)), folder.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), layout.join(blob(layer))).unwrap();
    assert!(matches!(read(&store, Origin::Directory(layout)), Err(ArchiveError::Read { .. })));
}
