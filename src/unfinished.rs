//! Files that are written beside their place, `NAME.NUMBER.part`, and get their name when they are complete.
//!
//! Contract: whoever reads a name sees a whole file or none. What is not finished goes when its writer gives up or a
//! signal ends the process ([`remove_all`]); what a killed process or a power cut left is found by [`sweep`], for who
//! writes a file holds a lock on it. It knows nothing of what is in the files.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

/// What goes when a signal ends the process: one list, for there is one process.
static PATHS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

const SUFFIX: &str = ".part";

/// A file that does not have its name yet; dropping it removes it.
#[derive(Debug)]
pub struct Unfinished {
    target: PathBuf,
    path: PathBuf,
    file: File,
}

impl Unfinished {
    /// Begins a file that will have this name and, less the umask, this mode.
    ///
    /// # Errors
    /// No file can be made in its directory.
    pub fn beside(target: &Path, mode: u32) -> io::Result<Unfinished> {
        let mut number = std::process::id();
        loop {
            let path = path_of(target, number);
            let mut paths = paths();
            match OpenOptions::new().write(true).create_new(true).mode(mode).open(&path) {
                Ok(file) => {
                    // A file system without locks has no sweeper either; one that was faster has it for a moment only.
                    drop(file.lock());
                    if file.metadata()?.nlink() == 0 {
                        continue;
                    }
                    paths.insert(path.clone());
                    return Ok(Unfinished { target: target.to_owned(), path, file });
                }
                // Somebody has the number: another thread, a process that is dead, one in another container.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !remove_abandoned(&path) {
                        number = number.checked_add(1).ok_or(error)?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What is written to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn finish(self) -> io::Result<()> {
        let mut paths = paths();
        fs::rename(&self.path, &self.target)?;
        paths.remove(&self.path);
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut paths = paths();
        if paths.remove(&self.path) {
            // Why it was given up is what counts; that it could not be removed either adds nothing.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn paths() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    PATHS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn path_of(target: &Path, number: u32) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{number}{SUFFIX}"));
    target.with_file_name(name)
}

/// Has a directory of unfinished work removed, too, when a signal ends the process.
pub fn remove_at_end(directory: &Path) {
    paths().insert(directory.to_owned());
}

/// Removes whatever this process has not finished, for it ends now: nothing is begun or finished any more.
pub fn remove_all() {
    let paths = paths();
    for path in paths.iter() {
        // Files that another thread writes into a directory at this moment are swept by the next rbuild.
        drop(if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) });
    }
    std::mem::forget(paths);
}

/// Removes what processes that are gone have not finished in a directory; what cannot be looked at stays.
pub fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_ours) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            remove_abandoned(&entry.path());
        }
    }
}

/// Whether a name is `NAME.NUMBER.part`, as it is written here.
fn is_ours(name: &str) -> bool {
    let number = name.strip_suffix(SUFFIX).and_then(|rest| rest.rsplit_once('.'));
    number.is_some_and(|(name, digits)| {
        !name.is_empty() && digits.parse::<u32>().is_ok_and(|number| number > 0 && number.to_string() == digits)
    })
}

/// Removes an unfinished file that nobody writes; whether it is gone.
fn remove_abandoned(path: &Path) -> bool {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Ok(file) => file,
        Err(error) => return error.kind() == io::ErrorKind::NotFound,
    };
    if file.try_lock().is_err() {
        return false;
    }
    // It may have been finished, and another one begun, since it was opened.
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let is_it = match (file.metadata(), path.symlink_metadata()) {
        (Ok(opened), Ok(named)) => identity(opened) == identity(named),
        _ => false,
    };
    is_it && fs::remove_file(path).is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("a.tar");
        let begun = Unfinished::beside(&target, 0o644).unwrap();
        begun.file().write_all(b"new").unwrap();
        let ours = format!("a.tar.{}.part", std::process::id());
        assert_eq!(names(directory.path()), [ours.as_str()]);
        // Another thread writes the same.
        let other = Unfinished::beside(&target, 0o644).unwrap();
        assert_eq!(names(directory.path()).len(), 2);
        drop(other);
        assert_eq!(names(directory.path()), [ours]);
        begun.finish().unwrap();
        assert_eq!(names(directory.path()), ["a.tar"]);
        assert_eq!(fs::read(&target).unwrap(), b"new");
        drop(Unfinished::beside(&target, 0o644).unwrap());
        assert_eq!(names(directory.path()), ["a.tar"]);
        assert!(paths().iter().all(|path| !path.starts_with(directory.path())));
    }

    #[test]
    fn what_a_dead_process_left_goes_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a.1.part", "b.tar.4294967295.part"] {
            fs::write(directory.path().join(name), "abandoned").unwrap();
        }
        let others =
            [".1.part", "a.01.part", "a.1.part.txt", "a.4294967296.part", "a.part", "a.x.part", "mine.tar", "part"];
        for name in others {
            fs::write(directory.path().join(name), "somebody's").unwrap();
        }
        fs::create_dir(directory.path().join("folder.1.part")).unwrap();
        std::os::unix::fs::symlink("mine.tar", directory.path().join("link.1.part")).unwrap();
        let begun = Unfinished::beside(&directory.path().join("z"), 0o644).unwrap();
        sweep(directory.path());
        let begun_name = begun.path.file_name().unwrap().to_str().unwrap();
        let mut expected = others.to_vec();
        expected.extend(["folder.1.part", "link.1.part", begun_name]);
        expected.sort_unstable();
        assert_eq!(names(directory.path()), expected);
        sweep(&directory.path().join("missing"));
    }

    #[test]
    fn the_number_of_a_dead_process_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("a");
        fs::write(path_of(&target, std::process::id()), "what an earlier process with the same number left").unwrap();
        let begun = Unfinished::beside(&target, 0o644).unwrap();
        begun.file().write_all(b"new").unwrap();
        begun.finish().unwrap();
        assert_eq!(names(directory.path()), ["a"]);
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }
}
