//! Somebody exchanges a directory for a link while it is being mounted, or mounted on.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rbuild::sandbox::{Access, Mount, MountKind, RunSpec};
use rustix::fs::{CWD, RenameFlags};

use crate::Case;
use crate::world::{World, mount};

pub const CASES: &[Case] = &[
    ("S5 CVE-2021-30465: a mount point that is exchanged for a link meanwhile", target),
    ("D2 CVE-2024-23651: a source that is exchanged for a link meanwhile", source),
    ("S4 CVE-2025-52565: a device's place that is exchanged for a link meanwhile", device),
];

/// Runs that race; a run takes a few milliseconds, an exchange a few microseconds.
const ROUNDS: usize = 60;

/// A directory of the host, shared with commands, in which `x` is now a directory and now a link to the canary's
/// directory, which has `y` as well.
struct Race {
    shared: std::path::PathBuf,
    victim: std::path::PathBuf,
}

impl Race {
    fn new(world: &World, name: &str) -> Race {
        let (shared, victim) =
            (world.outside.join(format!("{name}-shared")), world.outside.join(format!("{name}-victim")));
        for directory in [shared.join("x/y"), victim.join("y")] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(victim.join("y/canary"), "canary").unwrap();
        std::os::unix::fs::symlink(&victim, shared.join("link")).unwrap();
        Race { shared, victim }
    }

    fn bind(&self, target: &str, source: &str) -> Mount {
        let (source_root, source) = (self.shared.clone(), source.as_bytes().to_vec());
        mount(target, MountKind::Bind { source_root, source, access: Access::ReadWrite })
    }

    /// Runs commands while the two are exchanged. None may say that it saw the canary, and nothing is made beside it.
    fn run(&self, world: &World, spec: impl Fn() -> RunSpec) {
        let (over, exchanged, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (directory, link) = (self.shared.join("x"), self.shared.join("link"));
                while !over.load(Ordering::Relaxed) {
                    rustix::fs::renameat_with(CWD, &directory, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                    exchanged.fetch_add(1, Ordering::Relaxed);
                }
            });
            // The panic of a failed assertion must not leave the other thread running for ever.
            let seen: Vec<String> = (0..ROUNDS).map(|_| said(world, &spec(), &refused)).collect();
            over.store(true, Ordering::Relaxed);
            assert!(seen.iter().all(|said| !said.contains("canary")), "{seen:?}");
        });
        assert!(exchanged.load(Ordering::Relaxed) > ROUNDS, "the race was not one");
        assert_eq!(fs::read_to_string(self.victim.join("y/canary")).unwrap(), "canary");
        assert_eq!(names(&self.victim), ["y"]);
        assert_eq!(names(&self.victim.join("y")), ["canary"]);
    }
}

fn said(world: &World, spec: &RunSpec, refused: &AtomicUsize) -> String {
    match world.try_run(spec) {
        Ok(went) => went.stdout,
        Err(_) => {
            refused.fetch_add(1, Ordering::Relaxed);
            String::new()
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    entries.map(|name| name.to_string_lossy().into_owned()).collect()
}

fn target(world: &World) {
    let race = Race::new(world, "target");
    let inside = world.outside.join("target-inside");
    fs::create_dir(&inside).unwrap();
    let kind = || MountKind::Bind { source_root: inside.clone(), source: Vec::new(), access: Access::ReadWrite };
    race.run(world, || {
        let mounts = vec![race.bind("/cache", ""), mount("/cache/x/y", kind())];
        RunSpec { mounts, ..world.shell("cat /cache/x/y/canary /y/canary; echo gone > /cache/x/y/new") }
    });
}

fn source(world: &World) {
    let race = Race::new(world, "source");
    race.run(world, || {
        let mounts = vec![race.bind("/m", "x/y")];
        RunSpec { mounts, ..world.shell("ls /m; cat /m/canary; echo gone > /m/new; true") }
    });
    // That the canary is seen where it is given.
    let given = vec![Race { shared: race.victim.clone(), victim: race.victim.clone() }.bind("/m", "y")];
    assert_eq!(world.say_with("cat /m/canary", given), "canary");
}

fn device(world: &World) {
    let race = Race::new(world, "device");
    race.run(world, || {
        let mounts = vec![race.bind("/s", ""), mount("/s/x/null", MountKind::Device { path: "/dev/null".into() })];
        RunSpec { mounts, ..world.shell("ls /s/x/y; true") }
    });
}
