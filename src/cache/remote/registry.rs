//! A cache under a name in a registry.

use std::io::{self, Read};

use super::storage::{Content, RemoteError, Storage, Written};
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::progress::Task;
use crate::registry::push::{PushContent, PushImage, PushLayer, push};
use crate::registry::{Client, RegistryError};

/// A name in a registry.
pub struct Repository {
    client: Client,
    reference: Reference,
}

impl Repository {
    /// A cache under this name.
    pub fn new(client: Client, reference: Reference) -> Repository {
        Repository { client, reference }
    }
}

fn failed(error: RegistryError) -> RemoteError {
    RemoteError::Registry(Box::new(error))
}

impl Storage for Repository {
    fn name(&self) -> String {
        self.reference.familiar()
    }

    fn top(&self) -> Result<Option<Vec<u8>>, RemoteError> {
        match self.client.resolve_at(&self.reference, None) {
            Ok(resolved) => Ok(Some(resolved.bytes)),
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RemoteError> {
        self.client.manifest(&self.reference, descriptor).map_err(failed)
    }

    fn small(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, RemoteError> {
        self.client.blob_bytes(&self.reference, descriptor, limit).map_err(failed)
    }

    fn open(&self, descriptor: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.client.blob(&self.reference, descriptor)))
    }

    fn repository(&self) -> Option<&Reference> {
        Some(&self.reference)
    }

    fn write(&self, content: Content, task: &Task) -> Result<Written, RemoteError> {
        let layers = content.layers.into_iter().map(|piece| {
            let open = piece.open;
            PushLayer { descriptor: piece.descriptor, open: Box::new(move || open()), mount_from: piece.mount_from }
        });
        let image = PushImage { layers: layers.collect(), config: content.config, manifest: content.manifest };
        let pushed = push(&self.client, &self.reference, &PushContent::Image(Box::new(image)), &[], Some(task));
        let pushed = pushed.map_err(failed)?;
        Ok(Written { sent: pushed.uploaded, bytes: pushed.uploaded_bytes })
    }
}
