//! The plan, carried out: independent steps at the same time, each only when its key is not in the cache.
//!
//! One owner loop holds all state; steps run on other threads, get values and send their result back. What they
//! tell people goes to `progress`, never through the loop, so a chatty RUN cannot delay anything.

mod abreast;
mod add;
mod adopt;
mod aftermath;
mod agent;
mod audit;
mod base;
mod carried;
pub mod container;
pub mod contexts;
pub mod copy;
mod course;
mod crew;
mod devices;
mod download;
mod early;
mod error;
mod explain;
pub mod git;
pub mod ingest;
mod known;
pub mod layers;
mod log;
mod mask;
mod materials;
mod measure;
pub mod namespace;
pub mod passwd;
mod promised;
mod resolver;
mod retime;
mod run;
mod schedule;
mod squash;
mod steady;
mod step;
mod transfer;
mod waiting;
mod workdir;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use abreast::abreast;
pub use aftermath::{Aftermath, FailedRun};
pub use audit::Audited;
pub use base::ResolvedBase;
pub use carried::{NotPacked, PackedMount};
pub use contexts::{Context, Contexts, Dates, Origin, Origins};
pub use devices::CDI_DIRECTORIES;
pub use download::{DownloadError, Downloads, FetchedFile};
pub use error::{ExecuteError, RunFailure};
pub use explain::{Explained, Foresight, Nearest, Verdict, explain};
pub use ingest::BlobForm;
pub use layers::{Layers, Packing, Reuse, Wanted};
pub use materials::{Materials, Revision};
pub use measure::measure;
pub use namespace::Namespace;
pub use resolver::Resolver;
pub use run::private_network;
pub use steady::PLACEHOLDER;
pub use workers::WORKERS;

pub use crate::layer::retime::Retime;

use crate::cache::remote::Remote;
use crate::cache::{Cache, Pen};
use crate::digest::Digest;
use crate::plan::{BaseKey, Plan};
use crate::progress::Progress;
use crate::sandbox::{Cancel, Tool};
use course::Course;
use crew::Crew;

/// What a build may use.
pub struct Services<'a> {
    /// Finds and makes layers.
    pub layers: &'a Layers<'a>,
    /// Finds and keeps results.
    pub cache: Cache<'a>,
    /// What caches elsewhere have, and get.
    pub remote: &'a Remote,
    /// What the user sent.
    pub contexts: &'a Contexts,
    /// The base images of the plan.
    pub bases: &'a BTreeMap<BaseKey, ResolvedBase>,
    /// What remote sources turn out to be.
    pub materials: &'a Materials,
    /// Where news go.
    pub progress: &'a Progress,
    /// Stops everything.
    pub cancel: &'a Cancel,
    /// What the command line says.
    pub options: &'a ExecuteOptions,
    /// What is done with a step that is not in the cache.
    pub purpose: Purpose<'a>,
    /// Where the first RUN that fails is kept; without it, nothing of one stays.
    pub aftermath: Option<&'a Aftermath>,
}

/// What is done with a step that is not in the cache.
#[derive(Debug, Clone, Copy)]
pub enum Purpose<'a> {
    /// It is carried out.
    Build,
    /// It is explained.
    Explain(&'a Foresight),
}

/// What the command line says about execution.
#[derive(Debug, Clone)]
pub struct ExecuteOptions {
    /// Steps at a time.
    pub jobs: usize,
    /// Which steps may not come from the cache.
    pub no_cache: NoCache,
    /// The blob that outputs will want of each layer.
    pub blob: Option<BlobForm>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Agent sockets by id.
    pub agents: BTreeMap<String, std::path::PathBuf>,
    /// Lines of `/etc/hosts` besides the usual ones: name, address.
    pub hosts: Vec<(String, String)>,
    /// What RUN has where the Dockerfile does not say.
    pub network: DefaultNetwork,
    /// What `/etc/resolv.conf` says in place of the host's.
    pub resolver: Resolver,
    /// Bytes of `/dev/shm`.
    pub shm_size: u64,
    /// Time stamp of what rbuild itself makes, in seconds since 1970.
    pub epoch: i64,
    /// Whether times tell when something was made.
    pub times: Times,
    /// `created` of new layers; the time of the build where none is given.
    pub created: Option<i64>,
    /// What commands may have beyond the usual.
    pub allow: Allow,
    /// Where devices are described (CDI), the later directories counting more.
    pub cdi_directories: Vec<std::path::PathBuf>,
}

/// Which steps may not come from the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoCache {
    /// Every step may.
    UseCache,
    /// None may.
    All,
    /// Those of these stages may not.
    Stages(Vec<String>),
}

/// What network RUN has where the Dockerfile does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultNetwork {
    /// The host's.
    Host,
    /// One of its own that leads out, connected by this tool, or by one that there is.
    Private(Option<Tool>),
}

/// Whether times of files tell when they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Times {
    /// They do.
    #[default]
    Real,
    /// Whatever a step makes has the same time, whenever and wherever it does (`--reproducible`). Such steps have keys of
    /// their own: what is made otherwise is another thing.
    Steady,
}

/// What `--allow` allows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allow {
    /// `network.host`.
    pub network_host: bool,
    /// `security.insecure`.
    pub security_insecure: bool,
    /// `device`.
    pub devices: AllowedDevices,
}

/// Which devices a build may have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AllowedDevices {
    /// None but those that need no permission.
    #[default]
    None,
    /// All.
    All,
    /// These: a name that a Dockerfile uses, and the device that it means.
    Named(std::collections::BTreeMap<String, String>),
}

/// Where a secret's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file.
    File(std::path::PathBuf),
    /// A value that was taken from the environment.
    Value(Vec<u8>),
}

/// A root file system that a step made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOutput {
    /// What stands for it in the keys of later steps.
    pub key: Digest,
    /// Its layers, lowest first; `None` where they were only foreseen and are not made.
    pub layers: Option<Vec<Digest>>,
    /// The layer that the step added, and when that layer was made (RFC 3339).
    pub added: Option<(Digest, String)>,
}

/// Carries a plan out.
///
/// # Errors
/// The first step that fails; steps that ran beside it are stopped first, so nothing is left running.
pub fn execute(plan: &Plan, services: &Services<'_>) -> Result<Vec<Arc<StepOutput>>, ExecuteError> {
    let mut course = Course::new(plan, services);
    let (sender, results) = channel();
    let crew = Crew::default();
    std::thread::scope(|scope| {
        let _duty = crew.on_duty();
        let mut running = 0;
        loop {
            while running < services.options.jobs
                && let Some((number, step)) = course.next()
            {
                let sender = sender.clone();
                let work = move || {
                    // A step that panics must not leave the loop waiting for it for ever.
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(step))
                        .unwrap_or_else(|_| Err(ExecuteError::panicked("carry out a step")));
                    // The loop outlives every step, so there is always somebody to hear.
                    sender.send((number, result)).expect("the owner loop listens");
                    // While what waits for the step begins. What fails is tried again at the end, where it is told.
                    drop(services.cache.write_remembered(Pen::IfFree));
                };
                crew.give(scope, Box::new(work));
                running += 1;
            }
            if running == 0 {
                break;
            }
            let (number, result) = results.recv().expect("the loop holds a sender itself");
            running -= 1;
            course.ended(number, result);
        }
    });
    let removal = services.layers.namespace.begin_removal();
    let written = services.cache.write_remembered(Pen::Awaited);
    let outputs = course.finish()?;
    removal?;
    written?;
    Ok(outputs)
}

/// Seconds since 1970 as RFC 3339 with a fraction, as BuildKit writes it; whole seconds where a time was asked for.
pub fn timestamp(options: &ExecuteOptions) -> String {
    match options.created {
        Some(seconds) => crate::image::time::rfc3339(seconds, None),
        None => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            crate::image::time::rfc3339(i64::try_from(now.as_secs()).unwrap_or(0), Some(now.subsec_nanos()))
        }
    }
}
