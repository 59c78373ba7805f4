//! The format of a store: which directory is one, and how an older one becomes one of ours.

use std::fs;
use std::io;
use std::path::Path;

use super::{FOLDERS, Lock, Result, StoreError, flush};

/// The format that this rbuild reads and writes.
const VERSION: u32 = 2;

/// Makes sure that a directory is a store of our format, or becomes one: an older one, and what is empty.
pub(super) fn check(root: &Path) -> Result<()> {
    let found = match version(root)? {
        Some(found) => found,
        None => match stranger(root)? {
            None => String::new(),
            // Another process may have made the store meanwhile, version first.
            Some(found) => {
                let no_store = || StoreError::NoStore { path: root.display().to_string(), found };
                version(root)?.ok_or_else(no_store)?
            }
        },
    };
    match found.parse::<u32>() {
        Ok(VERSION) => Ok(()),
        Ok(older @ 1..VERSION) => migrate(root, older),
        // A new store, or one that lost its power when it was new.
        Err(_) if found.is_empty() => write_version(root),
        Ok(0) | Err(_) => Err(StoreError::UnknownFormat { path: root.display().to_string(), found }),
        Ok(_) => Err(StoreError::Newer { path: root.display().to_string(), found, known: VERSION }),
    }
}

/// What the store says of its format; nothing where it says nothing.
fn version(root: &Path) -> Result<Option<String>> {
    let path = root.join("version");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim_matches(['\0', ' ', '\n']).to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", &path, error)),
    }
}

/// Something in a directory without a version that no store has: what is of nobody knows whom must not be taken for ours,
/// swept and pruned. A store that lost its version with the power still has its lock.
fn stranger(root: &Path) -> Result<Option<String>> {
    let failed = |error| StoreError::io("read", root, error);
    let is_ours = |name: &str| FOLDERS.iter().any(|folder| folder.split('/').next() == Some(name));
    let mut folder = None;
    for entry in fs::read_dir(root).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if is_ours(&name) {
            folder = Some(name);
        } else if name != "lost+found" && !name.starts_with("version.") {
            return Ok(Some(name));
        }
    }
    Ok(folder.filter(|_| !root.join("locks/store").exists()))
}

/// Makes a store of an older format one of ours, when nobody uses it any more. Whoever waited for another to do so finds
/// it done.
///
/// Format 1 had no marks of what was not flushed: what it holds is flushed now, and believed as it was before.
fn migrate(root: &Path, older: u32) -> Result<()> {
    let _lock = Lock::exclusive(&root.join("locks/store"))?;
    let path = root.join("version");
    let found = fs::read_to_string(&path).map_err(|error| StoreError::io("read", &path, error))?;
    if found.trim() == older.to_string() {
        flush::flush(root)?;
        write_version(root)?;
    }
    Ok(())
}

fn write_version(root: &Path) -> Result<()> {
    let path = root.join("version");
    let temporary = root.join(format!("version.{}", std::process::id()));
    let written = fs::File::create(&temporary).and_then(|mut file| {
        io::Write::write_all(&mut file, format!("{VERSION}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    });
    written.map_err(|error| StoreError::io("write", &path, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::Store;

    #[test]
    fn a_newer_store_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(folder.path().join("version"), "99\n").unwrap();
        assert!(Store::open(folder.path()).unwrap_err().to_string().contains("format 99"));
        assert_eq!(fs::read_to_string(folder.path().join("version")).unwrap(), "99\n");
        for other in ["x", "0", "2\u{e}", "1.2.3\n"] {
            fs::write(folder.path().join("version"), other).unwrap();
            assert!(
                Store::open(folder.path()).unwrap_err().to_string().contains("which no rbuild writes"),
                "{other:?}"
            );
        }
    }

    #[test]
    fn an_older_store_is_made_a_new_one_and_keeps_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let digest = Store::open(&root).unwrap().put_blob(b"abc").unwrap();
        fs::write(root.join("version"), "1\n").unwrap();
        fs::remove_dir_all(root.join("unflushed")).unwrap();
        let store = Store::open(&root).unwrap();
        assert!(store.has_blob(&digest));
        assert_eq!(fs::read_to_string(root.join("version")).unwrap(), "2\n");
        // One that lost its power when it was new.
        drop(store);
        fs::write(root.join("version"), "").unwrap();
        assert!(Store::open(&root).unwrap().has_blob(&digest));
    }

    #[test]
    fn a_directory_with_other_files_is_no_store_and_stays_as_it_is() {
        for other in ["notes", "tmp/cache/k", "logs/app.log", ".git/HEAD"] {
            let folder = tempfile::tempdir().unwrap();
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
            let path = folder.path().join(other);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "kept").unwrap();
            let refused = Store::open(folder.path()).unwrap_err().to_string();
            assert!(refused.contains(other.split('/').next().unwrap()) && refused.contains("is no store"), "{refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{other}");
        }
    }

    #[test]
    fn what_is_empty_becomes_a_store_and_one_without_its_version_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(folder.path().join("lost+found")).unwrap();
        fs::write(folder.path().join("version.77"), "").unwrap();
        let digest = Store::open(folder.path()).unwrap().put_blob(b"abc").unwrap();
        fs::remove_file(folder.path().join("version")).unwrap();
        assert!(Store::open(folder.path()).unwrap().has_blob(&digest));
    }
}
