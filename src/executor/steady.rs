//! What a reproducible build does otherwise: nothing that a step makes says when it was made.
//!
//! What rbuild writes itself has the time [`STEADY`] from the start. What a command wrote gets it before anybody else sees
//! it: every time from the command's beginning on is of this build, every earlier one was put there on purpose (`tar`,
//! `cp -p`, a package manager) and stays. So it does not matter when the step ran, nor whether it was taken from the cache.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, utimensat};

use super::copy::Recipe;
use super::step::Work;
use super::{ExecuteError, Times};
use crate::digest::{Digest, Frame};
use crate::rootfs::{self, RootDir};
use crate::snapshot::Draft;
use crate::tree::{self, STEADY};

/// Gives everything below a directory (the descriptor) that was changed at or after a time the steady one; the argument is
/// that time, in seconds since 1970.
pub const STEADY_WORKER: &str = "steady";

/// The time of all that a reproducible build makes, in seconds since 1970, until the moment that dates it takes its place.
pub const PLACEHOLDER: i64 = STEADY.seconds;

/// Times of files come from a clock that is a tick behind (`ktime_get_coarse_real_ts64`).
const TICK: Duration = Duration::from_millis(20);

impl Work<'_> {
    /// What stands for a root file system that nothing was done to yet.
    pub(super) fn begun(&self, key: Digest) -> Digest {
        self.marked("rbuild.steady.begun.1", key)
    }

    /// What stands for everything that a copy writes.
    pub(super) fn content(&self, recipe: &Recipe) -> Result<Digest, ExecuteError> {
        let content = recipe.content_key().map_err(|error| self.copy_error(error))?;
        Ok(self.marked("rbuild.steady.content.1", content))
    }

    /// What stands for something as this kind of build makes it.
    pub(super) fn marked(&self, mark: &str, digest: Digest) -> Digest {
        match self.services.options.times {
            Times::Real => digest,
            Times::Steady => Frame::new(mark).digest("real", &digest).finish(),
        }
    }

    /// Takes the moment out of what a command wrote that began then.
    pub(super) fn make_steady(&self, draft: &Draft, begun: SystemTime) -> Result<(), ExecuteError> {
        if self.services.options.times == Times::Real {
            return Ok(());
        }
        let since = (begun - TICK).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let failed = |error| self.refuse(format!("cannot look at what the command wrote: {error}"));
        let upper = super::layers::open_directory(draft.upper()).map_err(failed)?;
        let namespace = self.services.layers.namespace;
        Ok(namespace.worker(STEADY_WORKER, since.to_string().as_bytes(), vec![upper])?.wait()?)
    }
}

/// The worker [`STEADY_WORKER`].
pub(super) fn run_steady(args: &[u8], fds: Vec<OwnedFd>) -> Result<(), String> {
    let since: i64 = std::str::from_utf8(args).ok().and_then(|text| text.parse().ok()).ok_or("steady needs a time")?;
    let root = fds.into_iter().next().map(RootDir::from_fd).ok_or("steady needs a directory")?;
    make_steady(&root, since).map_err(|error| error.to_string())
}

fn make_steady(root: &RootDir, since: i64) -> io::Result<()> {
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("set times in /{}: {error}", String::from_utf8_lossy(&path)))
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = root.open_without_links(&path, flags, Mode::empty()).map_err(named)?;
        for name in rootfs::names(&directory).map_err(named)? {
            if set_time(&directory, &name, since).map_err(named)? == Entry::Directory {
                todo.push(tree::join(&path, &name));
            }
        }
        // Setting times of what is in it leaves the directory's own alone.
        set_time(&directory, b".", since).map_err(named)?;
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Entry {
    Directory,
    Other,
}

fn set_time(directory: &OwnedFd, name: &[u8], since: i64) -> io::Result<Entry> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    // A device 0:0 is overlay's mark of a removal, one file under many names; it has no time in a layer.
    let is_whiteout = kind == rustix::fs::FileType::CharacterDevice && stat.st_rdev == 0;
    if stat.st_mtime >= since && !is_whiteout {
        utimensat(directory, name, &steady_times(), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(if kind == rustix::fs::FileType::Directory { Entry::Directory } else { Entry::Other })
}

/// Gives a directory itself the steady time.
pub(super) fn set_steady(directory: &RootDir) -> io::Result<()> {
    Ok(utimensat(directory, ".", &steady_times(), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn steady_times() -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps { last_access: time(0, UTIME_OMIT), last_modification: time(STEADY.seconds, STEADY.nanoseconds.into()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn what_was_made_since_is_steady_and_older_times_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("dir")).unwrap();
        std::fs::write(at("dir/new"), "").unwrap();
        symlink("/etc/passwd", at("dir/link")).unwrap();
        let old = std::fs::File::create(at("dir/old")).unwrap();
        old.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() - 60;
        make_steady(&RootDir::open(folder.path()).unwrap(), since.try_into().unwrap()).unwrap();
        let time = |name: &str| (name.to_owned(), at(name).symlink_metadata().unwrap().mtime());
        let expected = ["", "dir", "dir/new", "dir/link"].map(|name| (name.to_owned(), STEADY.seconds));
        assert_eq!(["", "dir", "dir/new", "dir/link"].map(time), expected);
        assert_eq!(time("dir/old").1, 1_000_000);
        let target = std::fs::metadata("/etc/passwd").unwrap();
        assert_ne!(target.mtime(), STEADY.seconds, "a link was followed");
    }
}
