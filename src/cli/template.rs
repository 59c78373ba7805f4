//! `--format '{{.Id}}'`: a part of Go's templates, as far as scripts use it on docker's output.
//!
//! Contract: text, `{{.Field.Field}}`, `range`, `if`, `else`, `end`, and the functions of `FUNCTIONS`, with pipes and
//! `{{-`/`-}}`. What is not understood, and a field that is not there, is an error that says what there is: a script that
//! gets an empty line goes on with it.

use serde_json::Value;

/// The functions that there are.
const FUNCTIONS: [&str; 8] = ["json", "index", "join", "len", "upper", "lower", "println", "print"];

/// Objects whose keys are data: one that is not there is no mistake.
const MAPS: [&str; 3] = ["Labels", "ExposedPorts", "Volumes"];

/// A template, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Print(Pipe),
    Range(Pipe, Vec<Piece>, Vec<Piece>),
    If(Pipe, Vec<Piece>, Vec<Piece>),
}

/// Calls, each of which gets what the one before it gave as its last argument.
type Pipe = Vec<Call>;

/// A function or a value, and arguments.
type Call = Vec<Word>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Field(Vec<String>),
    Text(String),
    Number(usize),
    Name(String),
}

/// Says what is wrong with a template, or with what it is asked to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It cannot be understood.
    #[error("{reason} in {action:?}")]
    Syntax {
        /// What is wrong.
        reason: &'static str,
        /// Where.
        action: String,
    },
    /// A function or a word that nobody knows.
    #[error("there is no function {name:?}; there are {}, range, if, else and end", FUNCTIONS.join(", "))]
    UnknownFunction {
        /// Its name.
        name: String,
    },
    /// A field that is not there.
    #[error("there is no field {field:?}; there are {}", known.join(", "))]
    UnknownField {
        /// Its name.
        field: String,
        /// The fields that are there.
        known: Vec<String>,
    },
    /// A function cannot do anything with what it is given.
    #[error("{function} cannot take {value}")]
    Argument {
        /// The function.
        function: String,
        /// What it was given.
        value: String,
    },
    /// A list has nothing at a place.
    #[error("index out of range: {place}")]
    OutOfRange {
        /// The place.
        place: String,
    },
}

impl Template {
    /// Understands a template; `\t` and `\n` in it are what they are in docker's.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut parts = split(&text)?.into_iter();
        match body(&mut parts)? {
            (pieces, None) => Ok(Template(pieces)),
            (_, Some(end)) => Err(TemplateError::Syntax { reason: "nothing to end", action: end }),
        }
    }

    /// Shows a value.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        let mut out = String::new();
        write(&self.0, value, &mut out)?;
        Ok(out)
    }
}

enum Part {
    Text(String),
    Action(String),
}

fn split(text: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut trim = false;
    loop {
        let (before, after) = rest.split_once("{{").map_or((rest, None), |(before, after)| (before, Some(after)));
        let mut plain = if trim { before.trim_start() } else { before };
        let Some(after) = after else {
            parts.push(Part::Text(plain.to_owned()));
            return Ok(parts);
        };
        let unclosed = || TemplateError::Syntax { reason: "a missing }}", action: after.to_owned() };
        let (mut action, next) = after.split_once("}}").ok_or_else(unclosed)?;
        if let Some(inner) = action.strip_prefix("- ") {
            (action, plain) = (inner, plain.trim_end());
        }
        trim = action.ends_with(" -");
        action = action.strip_suffix(" -").unwrap_or(action);
        parts.push(Part::Text(plain.to_owned()));
        parts.push(Part::Action(action.trim().to_owned()));
        rest = next;
    }
}

/// The pieces up to `end`, `else` or the end of all, and which of the words it was.
fn body(parts: &mut std::vec::IntoIter<Part>) -> Result<(Vec<Piece>, Option<String>), TemplateError> {
    let mut pieces = Vec::new();
    while let Some(part) = parts.next() {
        let action = match part {
            Part::Text(text) => {
                pieces.push(Piece::Text(text));
                continue;
            }
            Part::Action(action) => action,
        };
        match action.split_once(' ').unwrap_or((&action, "")) {
            ("end" | "else", "") => return Ok((pieces, Some(action))),
            ("range", value) => {
                let (inner, otherwise) = block(parts, &action)?;
                pieces.push(Piece::Range(pipe(value)?, inner, otherwise));
            }
            ("if", value) => {
                let (inner, otherwise) = block(parts, &action)?;
                pieces.push(Piece::If(pipe(value)?, inner, otherwise));
            }
            _ => pieces.push(Piece::Print(pipe(&action)?)),
        }
    }
    Ok((pieces, None))
}

/// What is between a `range` or `if` and its `end`: the part before `else`, and that after it.
fn block(parts: &mut std::vec::IntoIter<Part>, action: &str) -> Result<(Vec<Piece>, Vec<Piece>), TemplateError> {
    let wrong = |reason| TemplateError::Syntax { reason, action: action.to_owned() };
    let (first, word) = body(parts)?;
    match word.as_deref() {
        Some("end") => Ok((first, Vec::new())),
        Some(_) => match body(parts)? {
            (second, Some(word)) if word == "end" => Ok((first, second)),
            _ => Err(wrong("an else without its end")),
        },
        None => Err(wrong("a missing {{end}}")),
    }
}

fn pipe(text: &str) -> Result<Pipe, TemplateError> {
    let wrong = |reason| TemplateError::Syntax { reason, action: text.to_owned() };
    let mut pipe = vec![Vec::new()];
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        let call = pipe.last_mut().expect("there is a call from the start on");
        let end = match first {
            '"' | '`' => {
                let length = rest[1..].find(first).ok_or_else(|| wrong("an open quotation mark"))?;
                call.push(Word::Text(rest[1..=length].to_owned()));
                length + 2
            }
            '|' => {
                pipe.push(Vec::new());
                1
            }
            _ => {
                let end = rest.find([' ', '|', '"', '(', ')']).unwrap_or(rest.len());
                if end == 0 {
                    return Err(wrong("parentheses, which are not supported,"));
                }
                call.push(word(&rest[..end]));
                end
            }
        };
        rest = rest[end..].trim_start();
    }
    if pipe.iter().any(Vec::is_empty) {
        return Err(wrong("nothing to show"));
    }
    Ok(pipe)
}

fn word(text: &str) -> Word {
    match text.strip_prefix('.') {
        Some("") => Word::Field(Vec::new()),
        Some(fields) => Word::Field(fields.split('.').map(str::to_owned).collect()),
        None => text.parse().map_or_else(|_| Word::Name(text.to_owned()), Word::Number),
    }
}

fn write(pieces: &[Piece], value: &Value, out: &mut String) -> Result<(), TemplateError> {
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Print(pipe) => out.push_str(&shown(&evaluate(pipe, value)?)),
            Piece::If(pipe, then, otherwise) => {
                write(if is_something(&evaluate(pipe, value)?) { then } else { otherwise }, value, out)?;
            }
            Piece::Range(pipe, inner, otherwise) => match evaluate(pipe, value)? {
                Value::Array(items) if !items.is_empty() => {
                    items.iter().try_for_each(|item| write(inner, item, out))?;
                }
                Value::Object(items) if !items.is_empty() => {
                    items.values().try_for_each(|item| write(inner, item, out))?;
                }
                Value::Array(_) | Value::Object(_) | Value::Null => write(otherwise, value, out)?,
                other => return Err(unfit("range", &other)),
            },
        }
    }
    Ok(())
}

fn evaluate(pipe: &Pipe, value: &Value) -> Result<Value, TemplateError> {
    let mut result = None;
    for call in pipe {
        let mut arguments = Vec::new();
        for word in call {
            arguments.push(match word {
                Word::Field(path) => field(value, path)?,
                Word::Text(text) => Value::from(text.as_str()),
                Word::Number(number) => Value::from(*number),
                Word::Name(_) => Value::Null,
            });
        }
        arguments.extend(result.take());
        result = Some(match &call[0] {
            Word::Name(name) => function(name, &arguments[1..])?,
            _ if arguments.len() == 1 => arguments.remove(0),
            _ => return Err(unfit("a value that is no function", &arguments[1])),
        });
    }
    Ok(result.unwrap_or(Value::Null))
}

fn field(value: &Value, path: &[String]) -> Result<Value, TemplateError> {
    let mut found = value;
    let mut is_map = false;
    for name in path {
        found = match found.get(name) {
            Some(inner) => inner,
            None if is_map => return Ok(Value::from("<no value>")),
            None => {
                let known = found.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default();
                return Err(TemplateError::UnknownField { field: name.clone(), known });
            }
        };
        is_map = MAPS.contains(&name.as_str());
    }
    Ok(found.clone())
}

fn function(name: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let wrong = || unfit(name, &Value::Array(arguments.to_vec()));
    let text = |value: &Value| shown(value);
    Ok(match (name, arguments) {
        ("json", [value]) => Value::from(value.to_string()),
        ("len", [Value::Array(items)]) => Value::from(items.len()),
        ("len", [Value::Object(items)]) => Value::from(items.len()),
        ("len", [Value::String(text)]) => Value::from(text.len()),
        ("len", [Value::Null]) => Value::from(0),
        ("upper", [value]) => Value::from(text(value).to_uppercase()),
        ("lower", [value]) => Value::from(text(value).to_lowercase()),
        ("println", values) => Value::from(values.iter().map(text).collect::<Vec<_>>().join(" ") + "\n"),
        ("print", values) => Value::from(values.iter().map(text).collect::<String>()),
        ("join", [Value::Array(items), separator]) => {
            Value::from(items.iter().map(text).collect::<Vec<_>>().join(&text(separator)))
        }
        ("join", [Value::Null, _]) => Value::from(""),
        ("index", [Value::Array(items), Value::Number(number)]) => {
            let place = number.as_u64().and_then(|number| usize::try_from(number).ok());
            let beyond = || TemplateError::OutOfRange { place: number.to_string() };
            place.and_then(|place| items.get(place)).cloned().ok_or_else(beyond)?
        }
        ("index", [Value::Object(items), Value::String(key)]) => items.get(key).cloned().unwrap_or(Value::from("")),
        ("index", [Value::Null, _]) => Value::from(""),
        _ if FUNCTIONS.contains(&name) => return Err(wrong()),
        _ => return Err(TemplateError::UnknownFunction { name: name.to_owned() }),
    })
}

fn unfit(function: &str, value: &Value) -> TemplateError {
    TemplateError::Argument { function: function.to_owned(), value: value.to_string() }
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
    }
}

/// As Go prints values: `[a b]`, `map[a:1]`.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(items) => {
            let pairs: Vec<String> = items.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str) -> Result<String, String> {
        let value = serde_json::json!({
            "Id": "sha256:1", "Size": 12, "RepoTags": ["a:1", "b:2"], "Empty": [], "Nothing": null,
            "Config": { "Env": ["A=1", "B=2"], "Labels": { "x.y": "z", "w": "v" }, "User": "" },
        });
        Template::parse(template).and_then(|template| template.render(&value)).map_err(|error| error.to_string())
    }

    #[test]
    fn templates_show_what_gos_would() {
        for (template, expected) in [
            ("{{.Id}}", "sha256:1"),
            ("{{ .Id }} {{.Size}}\\n", "sha256:1 12\n"),
            ("{{.RepoTags}} {{.Config.Labels}}", "[a:1 b:2] map[w:v x.y:z]"),
            ("{{json .RepoTags}}", r#"["a:1","b:2"]"#),
            ("{{.RepoTags | json}}", r#"["a:1","b:2"]"#),
            ("{{index .RepoTags 1}}", "b:2"),
            (r#"{{index .Config.Labels "x.y"}}"#, "z"),
            (r#"[{{index .Config.Labels "missing"}}]"#, "[]"),
            ("{{.Config.Labels.w}} {{.Config.Labels.missing}}", "v <no value>"),
            (r#"{{join .RepoTags ", "}}"#, "a:1, b:2"),
            ("{{len .RepoTags}}{{len .Nothing}}", "20"),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            ("{{range .Config.Env}}{{.}};{{end}}", "A=1;B=2;"),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{if .Config.User}}{{.Config.User}}{{else}}root{{end}}", "root"),
            ("{{if .Size}}yes{{end}}", "yes"),
            ("a {{- .Size -}} b", "a12b"),
            ("{{upper .Id}} {{.Id | upper | lower}}", "SHA256:1 sha256:1"),
            ("plain", "plain"),
        ] {
            assert_eq!(rendered(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error_that_says_what_is() {
        for (template, expected) in [
            ("{{.ID}}", "there is no field \"ID\"; there are Config, Empty, Id,"),
            ("{{.Config.Nope}}", "there is no field \"Nope\"; there are Env, Labels, User"),
            ("{{.Id", "a missing }}"),
            ("{{range .RepoTags}}x", "a missing {{end}}"),
            ("{{end}}", "nothing to end"),
            ("{{}}", "nothing to show"),
            ("{{printf \"%s\" .Id}}", "there is no function \"printf\""),
            ("{{index .RepoTags 7}}", "index out of range: 7"),
            ("{{index .RepoTags \"a\"}}", "index cannot take"),
            ("{{(len .Id)}}", "parentheses"),
            ("{{json \"x}}", "an open quotation mark"),
            ("{{range .Id}}{{end}}", "range cannot take"),
        ] {
            let error = rendered(template).unwrap_err();
            assert!(error.contains(expected), "{template}: {error}");
        }
    }
}
