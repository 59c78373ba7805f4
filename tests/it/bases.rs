//! Base images: made once from Debian packages by the examples' own script, then built and pushed by `rbuild` where a test
//! needs them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Rbuild, cache_directory, has_program, source_directory, succeed, suite_user};
use crate::registry_server::{Access, Registry, missing_programs};

/// A kind of base image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// A shell and its tools in 2 MB.
    Busybox,
    /// Debian with apt.
    Debian,
    /// Debian with Node and npm.
    Node,
    /// Debian with Python and pip.
    Python,
}

impl Base {
    fn word(self) -> &'static str {
        match self {
            Base::Busybox => "busybox",
            Base::Debian => "debian",
            Base::Node => "node",
            Base::Python => "python",
        }
    }

    /// The compressed root file system, made if this machine has not made it yet; an error says what the machine lacks.
    pub fn rootfs(self) -> Result<PathBuf, String> {
        let directory = cache_directory();
        let path = directory.join(format!("{}.tar.xz", self.word()));
        let lock = fs::File::create(directory.join(format!("{}.lock", self.word()))).expect("create a lock");
        lock.lock().expect("wait for who makes the base image");
        if !path.exists() {
            let needs = if self == Base::Busybox { "busybox" } else { "mmdebstrap" };
            for program in [needs, "xz"] {
                if !has_program(program) {
                    return Err(format!("{program} is not installed, so there is no base image"));
                }
            }
            let script = source_directory().join("Dockerfile.examples/base/make-rootfs.sh");
            succeed(Command::new(script).arg(self.word()).arg(&path));
        }
        Ok(path)
    }

    /// The image as an OCI layout, built by rbuild if this machine has not built it yet.
    fn layout(self) -> Result<PathBuf, String> {
        let rootfs = self.rootfs()?;
        let directory = cache_directory();
        let path = directory.join(format!("{}.image", self.word()));
        let lock = fs::File::create(directory.join(format!("{}.image.lock", self.word()))).expect("create a lock");
        lock.lock().expect("wait for who builds the base image");
        if !path.exists() {
            let rbuild = Rbuild::new(suite_user());
            let context = rbuild.example("base");
            fs::copy(rootfs, context.directory.join("rootfs.tar.xz")).expect("copy the root file system");
            let unfinished = path.with_extension("unfinished");
            let _ = fs::remove_dir_all(&unfinished);
            let output = format!("type=oci,tar=false,dest={}", unfinished.display());
            rbuild.build(&context, &["-o", &output]).succeeded();
            fs::rename(unfinished, &path).expect("give the base image its name");
        }
        Ok(path)
    }

    /// Pushes the image with rbuild, and gives its name in the registry.
    pub fn push(self, registry: &Registry) -> Result<String, String> {
        let layout = self.layout()?;
        let name = registry.name(&format!("base/{}:1", self.word()));
        let rbuild = Rbuild::new(suite_user());
        let context = rbuild.context("base").file("Dockerfile", "FROM base\n");
        let base = format!("--build-context=base=oci-layout://{}", layout.display());
        rbuild.build(&context, &[&base, "-t", &name, "--push"]).succeeded();
        Ok(name)
    }

    /// Starts a registry that anybody may use and pushes the image to it; the reason where that cannot be done here.
    pub fn in_registry(self) -> Result<(Registry, String), String> {
        if let Some(program) = missing_programs(Access::Plain) {
            return Err(format!("{program} is not installed"));
        }
        let registry = Registry::start(Access::Plain);
        let name = self.push(&registry)?;
        Ok((registry, name))
    }
}
