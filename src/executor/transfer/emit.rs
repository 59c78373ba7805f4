//! The tar of a copy out of a stage, whose files only a worker can read.

use std::collections::BTreeMap;
use std::io::{self, Read};

use crate::digest::Digest;
use crate::executor::copy::{Content, Recipe, RecipeEntry};
use crate::executor::step::Work;
use crate::executor::{ExecuteError, layers, workers};
use crate::layer::emit::EmitEntry;
use crate::layer::view::MergedView;
use crate::layer::write::TarWriter;

impl Work<'_> {
    /// The tar of a recipe whose files are in trees: a worker reads them, for they may belong to any id.
    pub(super) fn emit(
        &self,
        recipe: &Recipe,
        layers: &[Digest],
        view: &MergedView,
    ) -> Result<Box<dyn Read + Send>, ExecuteError> {
        let mut roots: BTreeMap<usize, usize> = BTreeMap::new();
        let mut entries = Vec::with_capacity(recipe.entries.len());
        for entry in &recipe.entries {
            let mut emitted = EmitEntry {
                root: 0,
                source: Vec::new(),
                destination: entry.path.clone(),
                node: entry.node.clone(),
                link: None,
            };
            match &entry.content {
                Content::View { path, .. } => {
                    let missing = || ExecuteError::internal("a file of a stage is in none of its layers");
                    let (layer, source) = view.locate(path).ok_or_else(missing)?;
                    let next = roots.len();
                    emitted.root = *roots.entry(layer).or_insert(next);
                    emitted.source = source;
                }
                Content::HardLink(target) => emitted.link = Some(target.clone()),
                Content::None => {}
                Content::Inline(_) => return self.emit_inline(recipe, layers, view),
            }
            entries.push(emitted);
        }
        let mut ordered: Vec<(usize, usize)> = roots.into_iter().map(|(layer, root)| (root, layer)).collect();
        ordered.sort_unstable();
        let mut fds = Vec::new();
        for (_, layer) in ordered {
            let path = self.services.layers.tree(&layers[layer], &layers[..layer], self.task)?;
            fds.push(layers::open_directory(&path).map_err(|error| ExecuteError::layer(&layers[layer], error))?);
        }
        let args = serde_json::to_vec(&entries).map_err(ExecuteError::internal)?;
        self.services.layers.namespace.reader(workers::EMIT, &args, fds)
    }

    /// Here-documents beside files of a stage: two tars, one after the other, made into one.
    fn emit_inline(
        &self,
        recipe: &Recipe,
        layers: &[Digest],
        view: &MergedView,
    ) -> Result<Box<dyn Read + Send>, ExecuteError> {
        let (inline, files): (Vec<RecipeEntry>, Vec<RecipeEntry>) =
            recipe.entries.iter().cloned().partition(|entry| matches!(entry.content, Content::Inline(_)));
        let rest = self.emit(&Recipe { entries: files, ..Recipe::default() }, layers, view)?;
        let mut tar = TarWriter::new(Vec::new());
        let mut written = || -> io::Result<Vec<u8>> {
            for entry in &inline {
                let Content::Inline(content) = &entry.content else { continue };
                tar.append(&entry.path, &entry.node, None, &mut &content[..])?;
            }
            // The end of the first archive must not end the whole.
            std::mem::replace(&mut tar, TarWriter::new(Vec::new())).interrupt()
        };
        let first = written().map_err(|error| self.read_error(error))?;
        Ok(Box::new(io::Cursor::new(first).chain(rest)))
    }
}
