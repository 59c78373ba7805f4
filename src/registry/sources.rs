//! Reads from the first place that has it: mirrors in their order, then the registry itself.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use super::Client;
use super::configuration::RegistryFiles;
use super::error::RegistryError;
use super::registries::{Naming, Registries, RegistriesError};
use crate::image::reference::Reference;
use crate::progress::Task;

/// What is known about places.
#[derive(Default)]
pub(super) struct Places {
    files: RegistryFiles,
    read: OnceLock<Result<Registries, RegistriesError>>,
    /// By name, the place that served it last: it is asked first.
    preferred: Mutex<HashMap<String, String>>,
}

impl Places {
    pub fn new(files: RegistryFiles) -> Places {
        Places { files, ..Places::default() }
    }

    pub fn registries(&self) -> Result<&Registries, RegistryError> {
        let read = self.read.get_or_init(|| self.files.read());
        read.as_ref().map_err(|error| RegistryError::Registries(error.clone()))
    }

    fn preferred(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.preferred.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Client {
    /// The name in full that a short one (`debian`) stands for, by `registries.conf`; Docker Hub's where it says nothing.
    pub fn full_name(&self, reference: &Reference) -> Result<Reference, RegistryError> {
        Ok(self.shared.places.registries()?.full_name(reference)?)
    }

    /// Where to read something, the best place first.
    pub(super) fn sources(&self, reference: &Reference, naming: Naming) -> Result<Vec<Reference>, RegistryError> {
        let mut sources = self.shared.places.registries()?.sources(reference, naming)?;
        if let Some(best) = self.shared.places.preferred().get(&reference.name())
            && let Some(place) = sources.iter().position(|source| source.name() == *best)
        {
            sources[..=place].rotate_right(1);
        }
        Ok(sources)
    }

    /// Remembers which place had it.
    pub(super) fn prefer(&self, reference: &Reference, source: &Reference) {
        self.shared.places.preferred().insert(reference.name(), source.name());
    }

    /// Reads from one place after the other until one has it. The error is the last one's, that of the registry itself
    /// unless another was preferred, and tells of the others.
    pub(super) fn read_from_sources<T>(
        &self,
        reference: &Reference,
        naming: Naming,
        task: Option<&Task>,
        mut read: impl FnMut(&Reference) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let sources = self.sources(reference, naming)?;
        let mut refusals = Refusals::default();
        for (index, source) in sources.iter().enumerate() {
            match read(source) {
                Ok(found) => {
                    self.prefer(reference, source);
                    return Ok(found);
                }
                Err(error) if index + 1 == sources.len() => return Err(refusals.with(error)),
                Err(error) => {
                    if let Some(task) = task {
                        task.note(format!("{} does not help: {error}", source.name()));
                    }
                    refusals.add(source, &error);
                }
            }
        }
        Err(RegistryError::NotFound { reference: reference.to_string() })
    }
}

/// What places said that were asked in vain.
#[derive(Default)]
pub(super) struct Refusals(Vec<String>);

impl Refusals {
    pub fn add(&mut self, source: &Reference, error: &RegistryError) {
        self.0.push(format!("{}: {error}", source.name()));
    }

    /// The last error, with those before it.
    pub fn with(&mut self, error: RegistryError) -> RegistryError {
        if self.0.is_empty() {
            return error;
        }
        RegistryError::Everywhere { source: Box::new(error), others: std::mem::take(&mut self.0).join("; ") }
    }
}
