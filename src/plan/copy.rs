//! COPY and ADD.

use super::git::without_passwords;
use super::planner::Reported;
use super::stage::Walk;
use super::stages::{Origin, Reader};
use super::{ContextPath, CopyFrom, CopyInstruction, CopyOp, GitReference, Link, Op, Parents, Source, StepId};
use super::{history, path, title};
use crate::diagnostic::{Diagnostic, Span};
use crate::digest::Digest;
use crate::dockerfile::ast::{Heredoc, Instruction, Transfer, TransferSource, Word};

impl Source {
    /// What people call it, without passwords.
    pub fn shown(&self) -> String {
        match self {
            Source::Path(path) => path.clone(),
            Source::Url(url) => without_passwords(url),
            Source::Git(reference) => reference.to_string(),
            Source::Inline { name, content: _ } => format!("<<{name}"),
        }
    }
}

impl CopyOp {
    /// Whether `--chown` names somebody: who that is, the root file system below says.
    pub fn names_owner(&self) -> bool {
        let is_number = |letter: u8| letter.is_ascii_digit() || letter == b':';
        self.chown.as_ref().is_some_and(|owner| !owner.bytes().all(is_number))
    }
}

impl Walk<'_, '_> {
    pub(super) fn copy(
        &mut self,
        instruction: &Instruction,
        transfer: &Transfer,
        which: CopyInstruction,
    ) -> Result<(), Reported> {
        let from = self.copy_from(transfer.from.as_ref());
        let sources = self.sources(transfer, which);
        let chown = self.expand_optional(transfer.chown.as_ref());
        let chmod = self.chmod(transfer.chmod.as_ref());
        let destination = self.expand(&transfer.destination)?;
        let (from, mut sources, chown, chmod) = (from?, sources?, chown?, chmod?);
        let checksum = self.checksum(transfer.checksum.as_ref(), &mut sources)?;
        self.keep_git_dir(transfer.keep_git_dir, instruction.span, &mut sources)?;
        let text = title::instruction(instruction, &self.state.environment, &[]);
        let op = CopyOp {
            instruction: which,
            from,
            sources,
            destination: path::destination(&self.workdir_path(), &destination),
            workdir: self.workdir_path(),
            chown: chown.filter(|chown| !chown.is_empty()),
            chmod,
            link: if transfer.link { Link::Independent } else { Link::Follow },
            parents: if transfer.parents { Parents::Keep } else { Parents::Drop },
            exclude: transfer.exclude.iter().map(|word| word.value.clone()).collect(),
            checksum,
            keep_git_dir: transfer.keep_git_dir,
            unpack: transfer.unpack,
        };
        self.note_context_paths(instruction, &op);
        let history = history_text(&op, &destination);
        let inputs: Vec<StepId> = match op.from {
            CopyFrom::Step(step) => vec![step],
            _ => Vec::new(),
        };
        let step = self.push(Op::Copy(op), inputs, instruction.span, text);
        self.state.history.push(history::entry(history, Some(step)));
        Ok(())
    }

    fn note_context_paths(&mut self, instruction: &Instruction, op: &CopyOp) {
        let is_skipped = instruction.skipped_rules.iter().any(|rule| rule == "all" || rule == "CopyIgnoredFile");
        if op.from != CopyFrom::Context || is_skipped {
            return;
        }
        let span = self.place(instruction.span);
        for source in &op.sources {
            if let Source::Path(path) = source {
                let (instruction, path) = (op.instruction, path.clone());
                self.planner.context_paths.push(ContextPath { instruction, path, span });
            }
        }
    }

    fn copy_from(&mut self, word: Option<&Word>) -> Result<CopyFrom, Reported> {
        let Some(word) = word else { return Ok(CopyFrom::Context) };
        if !self.state.is_known && word.value.contains('$') {
            return Err(Reported);
        }
        let name = self.expand(word)?;
        if name.is_empty() {
            return Err(self.error(word.span, format!("the source of --from ({}) should not be blank", word.value)));
        }
        let span = self.place(word.span);
        let origin = self.planner.origin(&name, span, self.index, Reader::Copy)?;
        Ok(match origin {
            Origin::Context(key) => CopyFrom::NamedContext(key),
            origin => CopyFrom::Step(self.planner.read_only(&origin, span, self.index)),
        })
    }

    /// Paths, URLs and git references first, then the here-documents, as BuildKit orders them.
    fn sources(&mut self, transfer: &Transfer, which: CopyInstruction) -> Result<Vec<Source>, Reported> {
        let mut paths = Vec::new();
        let mut inline = Vec::new();
        for source in &transfer.sources {
            match source {
                TransferSource::Path(word) => paths.push(self.source(word, which, transfer.from.as_ref())),
                TransferSource::Heredoc(heredoc) => inline.push(self.inline(heredoc)),
            }
        }
        paths.into_iter().chain(inline).collect()
    }

    fn source(&mut self, word: &Word, which: CopyInstruction, from: Option<&Word>) -> Result<Source, Reported> {
        let text = self.expand(word)?;
        let git = GitReference::parse(&text);
        let is_url = git.is_none() && (text.starts_with("http://") || text.starts_with("https://"));
        match (which, git, is_url) {
            (CopyInstruction::Add, Some(git), _) => {
                git.map(Source::Git).map_err(|error| self.error(word.span, error.to_string()))
            }
            (CopyInstruction::Add, None, true) => Ok(Source::Url(text)),
            (CopyInstruction::Copy, Some(_), _) if from.is_none() => {
                Err(self.remote(word, "source can't be a git ref for COPY"))
            }
            (CopyInstruction::Copy, None, true) if from.is_none() => {
                Err(self.remote(word, "source can't be a URL for COPY"))
            }
            _ => Ok(Source::Path(text)),
        }
    }

    fn remote(&mut self, word: &Word, message: &str) -> Reported {
        self.report(Diagnostic::error(word.span, message).help("use ADD to fetch it"));
        Reported
    }

    fn inline(&mut self, heredoc: &Heredoc) -> Result<Source, Reported> {
        let body = Word::new(heredoc.content(), heredoc.span);
        let content = if heredoc.expand { self.expand_body(&body)? } else { body.value };
        Ok(Source::Inline { name: heredoc.name.clone(), content })
    }

    fn chmod(&mut self, word: Option<&Word>) -> Result<Option<String>, Reported> {
        let Some(word) = word else { return Ok(None) };
        let mode = self.expand(word)?;
        if mode.is_empty() {
            return Ok(None);
        }
        if !is_octal_mode(&mode) && !is_symbolic_mode(&mode) {
            let message =
                format!("invalid chmod parameter: '{mode}'. it should be octal string and between 0 and 07777");
            self.report(Diagnostic::error(word.span, message).help("or symbolic, as in u=rwX,go=rX"));
            return Err(Reported);
        }
        Ok(Some(mode))
    }

    fn checksum(&mut self, word: Option<&Word>, sources: &mut [Source]) -> Result<Option<String>, Reported> {
        let Some(word) = word else { return Ok(None) };
        let checksum = self.expand(word)?;
        if checksum.is_empty() {
            return Ok(None);
        }
        match sources {
            [Source::Url(_)] => {
                if checksum.parse::<Digest>().is_err() {
                    let message = format!("invalid checksum {checksum:?}");
                    self.report(
                        Diagnostic::error(word.span, message).help("give sha256: and 64 hexadecimal characters"),
                    );
                    return Err(Reported);
                }
                Ok(Some(checksum))
            }
            [Source::Git(reference)] => {
                let set = reference.set_commit(&checksum);
                set.map_err(|error| self.error(word.span, error.to_string()))?;
                Ok(Some(checksum))
            }
            [_] => Err(self.error(word.span, "checksum requires HTTP(S) or Git sources")),
            _ => Err(self.error(word.span, "checksum can't be specified for multiple sources")),
        }
    }

    /// `--keep-git-dir` goes to the repositories; for other sources it means nothing, as in BuildKit.
    fn keep_git_dir(&mut self, keep: Option<bool>, span: Span, sources: &mut [Source]) -> Result<(), Reported> {
        let Some(keep) = keep else { return Ok(()) };
        for source in sources {
            if let Source::Git(reference) = source {
                reference.set_keep_git_dir(keep).map_err(|error| self.error(span, error.to_string()))?;
            }
        }
        Ok(())
    }
}

fn history_text(op: &CopyOp, destination: &str) -> String {
    let source = |source: &Source| match source {
        Source::Path(text) | Source::Url(text) => text.clone(),
        Source::Git(reference) => reference.to_string(),
        Source::Inline { name, .. } => format!("<<{name}"),
    };
    history::copy(&history::CopyText {
        instruction: op.instruction,
        parents: op.parents,
        chown: op.chown.as_deref(),
        chmod: op.chmod.as_deref(),
        sources: op.sources.iter().map(source).collect(),
        destination,
    })
}

fn is_octal_mode(mode: &str) -> bool {
    mode.bytes().all(|byte| byte.is_ascii_digit()) && u32::from_str_radix(mode, 8).is_ok_and(|mode| mode <= 0o7777)
}

/// chmod(1) of BSD: `[ugoa…][-+=][rwxXst…|ugo]…`, separated by commas.
fn is_symbolic_mode(mode: &str) -> bool {
    mode.split(',').all(|clause| {
        let who = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        who.starts_with(['-', '+', '='])
            && who.split(['-', '+', '=']).skip(1).all(|permissions| {
                matches!(permissions, "u" | "g" | "o") || permissions.chars().all(|c| "rwxXst".contains(c))
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_or_symbolic() {
        for mode in ["755", "0", "07777", "u=rwX,go=rX", "+x", "a+r-w", "g=u", "ug+s,o="] {
            assert!(is_octal_mode(mode) || is_symbolic_mode(mode), "{mode}");
        }
        for mode in ["888", "10000", "0o755", "u", "rwx", "u=rwz", ",", "u+x,", "-1"] {
            assert!(!is_octal_mode(mode) && !is_symbolic_mode(mode), "{mode}");
        }
    }
}
