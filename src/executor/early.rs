//! Layers that go to a registry while they are compressed.
//!
//! Nothing goes while there is a command that could fail, as that is what most builds fail for that fail.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ingest::BlobForm;
use crate::digest::Digest;
use crate::image::reference::Reference;
use crate::registry::{Begun, Client, EarlyUploads, Unfinished};
use crate::store::{Growing, Interest, Watch};

/// Where blobs go as soon as they are large; by default nowhere.
#[derive(Debug, Default)]
pub(super) struct Early {
    to: Option<Destination>,
    /// No command is left that could fail, and nothing has failed.
    is_time: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Destination {
    form: BlobForm,
    uploads: Arc<EarlyUploads>,
}

impl Early {
    /// Blobs of a form go to the repository of a name.
    pub(super) fn to(client: &Client, target: &Reference, form: BlobForm) -> Early {
        let uploads = Arc::new(EarlyUploads::new(client.clone(), target.clone()));
        Early { to: Some(Destination { form, uploads }), is_time: Arc::default() }
    }

    /// Whether it is time: no command is left that could fail, and nothing has failed.
    pub(super) fn set_time(&self, is_time: bool) {
        self.is_time.store(is_time, Ordering::Relaxed);
    }

    /// Who wants a blob of this form.
    pub(super) fn watch(&self, form: BlobForm) -> Option<Watch> {
        let to = self.to.as_ref().filter(|to| to.form == form)?;
        let (uploads, is_time) = (Arc::clone(&to.uploads), Arc::clone(&self.is_time));
        Some(Arc::new(move |blob: &Growing| {
            if !is_time.load(Ordering::Relaxed) {
                return Interest::NotYet;
            }
            match uploads.begin(Arc::new(Layer(blob.clone()))) {
                Begun::Yes => Interest::Taken,
                Begun::NotYet => Interest::NotYet,
            }
        }))
    }

    pub(super) fn uploads(&self) -> Option<&EarlyUploads> {
        self.to.as_ref().map(|to| &*to.uploads)
    }
}

#[derive(Debug)]
struct Layer(Growing);

impl Unfinished for Layer {
    fn open(&self) -> Box<dyn Read + Send> {
        Box::new(self.0.open())
    }

    fn digest(&self) -> Option<Digest> {
        self.0.digest()
    }

    fn abandon(&self) {
        self.0.abandon();
    }
}
