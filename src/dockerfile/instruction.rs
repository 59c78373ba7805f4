//! One instruction: its keyword, its flags, and the grammar of its arguments.

use super::ast::{ArgDeclaration, Command, Instruction, KeyValue, Operation, Word};
use super::flags::{self, Flags, RawFlag, Takes};
use super::heredoc::{self, RawHeredoc};
use super::json::{self, Array};
use super::keyword::Keyword;
use super::lines::Text;
use super::problems::Problems;
use super::{healthcheck, lint, run, transfer, words};
use crate::diagnostic::{Diagnostic, Span, Spanned};

/// A logical line split into its parts.
#[derive(Debug)]
pub(super) struct Statement<'l> {
    /// All of it, trimmed.
    pub(super) whole: Text<'l>,
    /// The name of the instruction as written.
    pub(super) keyword: Text<'l>,
    /// Its flags.
    pub(super) flags: Vec<RawFlag<'l>>,
    /// Its other arguments, trimmed.
    pub(super) arguments: Text<'l>,
    /// The file's escape character.
    pub(super) escape: char,
}

impl<'l> Statement<'l> {
    /// Splits a line.
    pub(super) fn split(line: Text<'l>, escape: char) -> Statement<'l> {
        let whole = line.trim();
        let (keyword, rest) = words::split_first(whole);
        let rest = rest.unwrap_or(whole.tail(whole.as_str().len()));
        let (flags, arguments) = flags::extract(rest, escape);
        Statement { whole, keyword, flags, arguments, escape }
    }

    /// The instruction that is named, or what to say of an unknown one.
    pub(super) fn kind(&self) -> Result<Keyword, Diagnostic> {
        let name = self.keyword.as_str();
        Keyword::of(name).ok_or_else(|| {
            let error = Diagnostic::error(self.keyword.span(), format!("unknown instruction: {name}"));
            match self.help_for_unknown(name) {
                Some(help) => error.help(help),
                None => error,
            }
        })
    }

    fn help_for_unknown(&self, name: &str) -> Option<String> {
        if let Some(meant) = Keyword::meant_by(name) {
            return Some(format!("did you mean {meant}?"));
        }
        match name {
            _ if name.starts_with("//") => Some("a comment begins with #".to_owned()),
            "&&" | "||" | "|" | ";" => {
                Some(format!("the line before needs a {} at its end to go on here", self.escape))
            }
            _ => None,
        }
    }

    /// Whether `<<NAME` words in it announce here-documents.
    pub(super) fn takes_heredocs(&self) -> bool {
        match Keyword::of(self.keyword.as_str()) {
            Some(Keyword::Onbuild) => {
                let inner = Statement::split(self.arguments, self.escape);
                Keyword::of(inner.keyword.as_str()) != Some(Keyword::Onbuild) && inner.takes_heredocs()
            }
            Some(keyword) => keyword.takes_heredocs() && matches!(json::array(self.arguments), Array::Not),
            None => false,
        }
    }

    /// Checks the flags against those that the instruction knows.
    pub(super) fn check_flags<'s>(&'s self, known: &[(&'static str, Takes)]) -> Result<Flags<'s, 'l>, Problems> {
        flags::check(&self.flags, known)
    }

    /// An error about its arguments, or about the keyword where there are none.
    pub(super) fn error(&self, message: impl Into<String>) -> Diagnostic {
        let span = if self.arguments.is_empty() { self.keyword.span() } else { self.arguments.span() };
        Diagnostic::error(span, message)
    }

    fn needs_arguments(&self, name: &str) -> Result<(), Diagnostic> {
        if self.arguments.is_empty() {
            return Err(self.error(format!("{name} requires at least one argument")));
        }
        Ok(())
    }
}

/// Comments between the instruction before and this one, without their marks.
pub(super) type Comments<'a> = [&'a str];

/// Parses any instruction but FROM.
pub(super) fn parse(
    statement: &Statement<'_>,
    kind: Keyword,
    comments: &Comments<'_>,
    heredocs: &[RawHeredoc<'_>],
) -> Result<Instruction, Problems> {
    let mut operation = parse_operation(statement, kind, heredocs)?;
    let mut doc = None;
    if let Operation::Arg(declarations) = &mut operation {
        for declaration in declarations.iter_mut() {
            declaration.doc = doc_comment(comments, &declaration.name.value);
        }
        doc = declarations.iter().find_map(|declaration| declaration.doc.clone());
    }
    Ok(Instruction {
        span: span(statement, heredocs),
        keyword: statement.keyword.word(),
        original: original(statement, heredocs),
        doc,
        skipped_rules: lint::skipped_by_comments(comments),
        operation,
    })
}

/// The place of a statement with its here-documents.
fn span(statement: &Statement<'_>, heredocs: &[RawHeredoc<'_>]) -> Span {
    let span = statement.whole.span();
    heredocs.last().map_or(span, |last| span.to(Span::new(last.end, last.end)))
}

/// A statement's text with the bodies of its here-documents. White space at its end stays, as it does in the `OnBuild` of
/// BuildKit's configs.
fn original(statement: &Statement<'_>, heredocs: &[RawHeredoc<'_>]) -> String {
    let mut text = statement.whole.with_rest_of_line().to_owned();
    for heredoc in heredocs {
        text.push('\n');
        text.push_str(heredoc.raw);
        text.push_str(&heredoc.marker.name);
    }
    text
}

/// The text of a comment of the form `name text`.
pub(super) fn doc_comment(comments: &Comments<'_>, name: &str) -> Option<String> {
    let text = comments.iter().find_map(|comment| comment.strip_prefix(name)?.strip_prefix(' '))?;
    (!name.is_empty()).then(|| text.to_owned())
}

fn parse_operation(
    statement: &Statement<'_>,
    kind: Keyword,
    heredocs: &[RawHeredoc<'_>],
) -> Result<Operation, Problems> {
    Ok(match kind {
        Keyword::Add => Operation::Add(Box::new(transfer::parse_add(statement, heredocs)?)),
        Keyword::Arg => Operation::Arg(parse_arg(statement)?),
        Keyword::Cmd => Operation::Cmd(parse_command(statement)?),
        Keyword::Copy => Operation::Copy(Box::new(transfer::parse_copy(statement, heredocs)?)),
        Keyword::Entrypoint => Operation::Entrypoint(parse_command(statement)?),
        Keyword::Env => Operation::Env(parse_pairs(statement, "ENV")?),
        Keyword::Expose => Operation::Expose(parse_expose(statement)?),
        Keyword::Healthcheck => Operation::Healthcheck(Box::new(healthcheck::parse(statement)?)),
        Keyword::Label => Operation::Label(parse_pairs(statement, "LABEL")?),
        Keyword::Maintainer => Operation::Maintainer(parse_text(statement, "MAINTAINER")?),
        Keyword::Onbuild => Operation::Onbuild(Box::new(parse_onbuild(statement, heredocs)?)),
        Keyword::Run => Operation::Run(Box::new(run::parse(statement, heredocs)?)),
        Keyword::Shell => Operation::Shell(parse_shell(statement)?),
        // BuildKit looks at no flags of STOPSIGNAL.
        Keyword::Stopsignal => Operation::Stopsignal(text_argument(statement, "STOPSIGNAL")?),
        Keyword::User => Operation::User(parse_text(statement, "USER")?),
        Keyword::Volume => Operation::Volume(parse_volume(statement)?),
        Keyword::Workdir => Operation::Workdir(parse_text(statement, "WORKDIR")?),
        Keyword::From => return Err(not_a_trigger(statement, kind).into()),
    })
}

/// A JSON array or text for the shell.
pub(super) fn command(arguments: Text<'_>) -> Result<Command, Diagnostic> {
    match json::array(arguments) {
        Array::Strings(words) => Ok(Command::Exec(words)),
        Array::Mixed => Err(Diagnostic::error(arguments.span(), json::NOT_STRINGS)),
        Array::Not => Ok(Command::Shell(arguments.word())),
    }
}

fn parse_command(statement: &Statement<'_>) -> Result<Command, Problems> {
    statement.check_flags(&[])?;
    Ok(command(statement.arguments)?)
}

fn text_argument(statement: &Statement<'_>, name: &str) -> Result<Word, Diagnostic> {
    if statement.arguments.is_empty() {
        return Err(statement.error(format!("{name} requires exactly one argument")));
    }
    Ok(statement.arguments.word())
}

fn parse_text(statement: &Statement<'_>, name: &str) -> Result<Word, Problems> {
    statement.check_flags(&[])?;
    Ok(text_argument(statement, name)?)
}

fn parse_arg(statement: &Statement<'_>) -> Result<Vec<ArgDeclaration>, Problems> {
    let words = words::split_quoted(statement.arguments, statement.escape);
    if words.is_empty() {
        return Err(statement.error("ARG requires at least one argument").into());
    }
    let declarations = words.into_iter().map(|word| {
        let (name, default) = match word.as_str().find('=') {
            Some(0) => return Err(Diagnostic::error(word.span(), "ARG names can not be blank")),
            Some(at) => (word.slice(0..at), Some(word.tail(at + 1).word())),
            None => (word, None),
        };
        Ok(ArgDeclaration { name: name.word(), default, doc: None })
    });
    Ok(declarations.collect::<Result<_, _>>()?)
}

fn parse_pairs(statement: &Statement<'_>, name: &str) -> Result<Vec<KeyValue>, Problems> {
    statement.check_flags(&[])?;
    let words = words::split_quoted(statement.arguments, statement.escape);
    let Some(first) = words.first() else {
        statement.needs_arguments(name)?;
        return Err(statement.error(format!("{name} requires at least one argument")).into());
    };
    if !first.as_str().contains('=') {
        return Ok(vec![legacy_pair(statement, name)?]);
    }
    let pairs = words.into_iter().map(|word| {
        let letters = word.as_str();
        let Some(at) = letters.find('=') else {
            let message = format!("Syntax error - can't find = in {letters:?}. Must be of the form: name=value");
            return Err(Diagnostic::error(word.span(), message));
        };
        if at == 0 {
            return Err(Diagnostic::error(word.span(), format!("{name} names can not be blank")));
        }
        Ok(KeyValue { key: word.slice(0..at).word(), value: word.tail(at + 1).word(), legacy: false })
    });
    Ok(pairs.collect::<Result<_, _>>()?)
}

fn legacy_pair(statement: &Statement<'_>, name: &str) -> Result<KeyValue, Diagnostic> {
    let (key, value) = words::split_first(statement.arguments);
    let value = value.ok_or_else(|| {
        let help = format!("write {name} {}=value", key.as_str());
        statement.error(format!("{name} must have two arguments")).help(help)
    })?;
    Ok(KeyValue { key: key.word(), value: value.word(), legacy: true })
}

fn parse_expose(statement: &Statement<'_>) -> Result<Vec<Word>, Problems> {
    statement.needs_arguments("EXPOSE")?;
    statement.check_flags(&[])?;
    Ok(words::split_blanks(statement.arguments).iter().map(Text::word).collect())
}

/// A JSON array or words between blanks.
pub(super) fn list(statement: &Statement<'_>) -> Result<Vec<Word>, Diagnostic> {
    match json::array(statement.arguments) {
        Array::Strings(words) => Ok(words),
        Array::Mixed => Err(Diagnostic::error(statement.arguments.span(), json::NOT_STRINGS)),
        Array::Not => Ok(words::split_blanks(statement.arguments).iter().map(Text::word).collect()),
    }
}

fn parse_volume(statement: &Statement<'_>) -> Result<Vec<Word>, Problems> {
    let words = list(statement)?;
    if words.is_empty() {
        return Err(statement.error("VOLUME requires at least one argument").into());
    }
    statement.check_flags(&[])?;
    let trimmed = words.into_iter().map(|word| match word.value.trim() {
        "" => Err(Diagnostic::error(word.span, "VOLUME specified can not be an empty string")),
        path => Ok(Spanned::new(path.to_owned(), word.span)),
    });
    Ok(trimmed.collect::<Result<_, _>>()?)
}

fn parse_shell(statement: &Statement<'_>) -> Result<Vec<Word>, Problems> {
    statement.check_flags(&[])?;
    statement.needs_arguments("SHELL")?;
    match command(statement.arguments)? {
        Command::Exec(words) if words.is_empty() => Err(statement.error("SHELL requires at least one argument").into()),
        Command::Exec(words) => Ok(words),
        Command::Shell(_) => Err(statement
            .error("SHELL requires the arguments to be in JSON form")
            .help("for example SHELL [\"/bin/bash\", \"-c\"]")
            .into()),
    }
}

fn parse_onbuild(statement: &Statement<'_>, heredocs: &[RawHeredoc<'_>]) -> Result<Instruction, Problems> {
    statement.needs_arguments("ONBUILD")?;
    statement.check_flags(&[])?;
    let inner = Statement::split(statement.arguments, statement.escape);
    let kind = inner.kind()?;
    check_trigger(&inner, kind)?;
    parse(&inner, kind, &[], heredocs)
}

/// Refuses what ONBUILD may not hold.
pub(super) fn check_trigger(statement: &Statement<'_>, kind: Keyword) -> Result<(), Diagnostic> {
    match kind {
        Keyword::Onbuild => {
            let message = "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed";
            Err(Diagnostic::error(statement.keyword.span(), message))
        }
        Keyword::Maintainer | Keyword::From => Err(not_a_trigger(statement, kind)),
        _ => Ok(()),
    }
}

fn not_a_trigger(statement: &Statement<'_>, kind: Keyword) -> Diagnostic {
    let message = format!("{} isn't allowed as an ONBUILD trigger", kind.name());
    Diagnostic::error(statement.keyword.span(), message)
}

/// The here-documents that a statement announces.
pub(super) fn announced(statement: &Statement<'_>) -> Vec<(heredoc::Marker, Span)> {
    if statement.whole.as_str().contains("<<") && statement.takes_heredocs() {
        heredoc::markers(statement.whole)
    } else {
        Vec::new()
    }
}
