//! `rbuild completion` and `rbuild man`: what shells and `man` know of rbuild, from the table of arguments itself.

use std::path::Path;

use clap_complete::Shell;

use super::print;
use crate::cli::failure::{Failure, FailureKind};

/// Commands whose words are names of images.
const OF_IMAGES: [&str; 10] = ["run", "push", "tag", "rmi", "inspect", "history", "save", "export", "diff", "sbom"];

/// What gives the names of images; that there is no store yet is no news, and what has no tag is nothing to type.
const NAMES: &str = "rbuild images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null | grep -v '<none>'";

/// `rbuild completion`.
pub(super) fn completion(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::cli::command(), "rbuild", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    print(&match shell {
        Shell::Bash => format!("{script}\n{}", bash_names()),
        Shell::Zsh => zsh_names(&script),
        Shell::Fish => format!("{script}{}", fish_names()),
        _ => script,
    })
}

/// Names of images where one is expected: what clap generates knows flags and commands alone.
fn bash_names() -> String {
    format!(
        "_rbuild_with_images() {{\n    _rbuild \"$@\"\n    local word=\"${{COMP_WORDS[COMP_CWORD]}}\" prefix names\n    \
         case \"${{COMP_WORDS[1]}}\" in\n        {})\n            if [[ $word != -* && $COMP_CWORD -gt 1 ]]; then\n                \
         names=$({NAMES})\n                # A colon ends a word of bash: what stands before it must not come again.\n                \
         prefix=\n                if [[ $COMP_WORDBREAKS == *:* && $COMP_CWORD -gt 2 && ${{COMP_WORDS[COMP_CWORD-1]}} == : ]]; then\n                    \
         prefix=\"${{COMP_WORDS[COMP_CWORD-2]}}:\"\n                elif [[ $word == : && $COMP_CWORD -gt 2 ]]; then\n                    \
         prefix=\"${{COMP_WORDS[COMP_CWORD-1]}}:\"; word=\n                fi\n                \
         COMPREPLY+=($(compgen -W \"$names\" -- \"$prefix$word\"))\n                \
         COMPREPLY=(\"${{COMPREPLY[@]#\"$prefix\"}}\")\n            fi\n            ;;\n    esac\n}}\n\
         complete -F _rbuild_with_images -o bashdefault -o default rbuild\n",
        OF_IMAGES.join("|")
    )
}

fn zsh_names(script: &str) -> String {
    let function = format!(
        "\n_rbuild_images() {{\n    local -a names\n    names=(${{(f)\"$({NAMES})\"}})\n    compadd -a names\n}}\n"
    );
    // The part of each command begins with its name in parentheses; within it the arguments that name images get them.
    let mut command = "";
    let lines = script.split_inclusive('\n').map(|line| {
        if let Some(name) = line.strip_prefix('(').and_then(|line| line.trim_end().strip_suffix(')')) {
            command = name;
        }
        let is_argument = line.starts_with("':") || line.starts_with("'*:");
        match is_argument && OF_IMAGES.contains(&command) {
            true => line.replace(":_default'", ":_rbuild_images'"),
            false => line.to_owned(),
        }
    });
    let script: String = lines.collect();
    // Before the line that registers or calls the completion.
    match script.rfind("if [ \"$funcstack[1]\"") {
        Some(place) => format!("{}{function}\n{}", &script[..place], &script[place..]),
        None => format!("{script}{function}"),
    }
}

fn fish_names() -> String {
    let of = |command: &str| {
        format!("complete -c rbuild -n \"__fish_seen_subcommand_from {command}\" -f -a \"({NAMES})\"\n")
    };
    OF_IMAGES.iter().map(|command| of(command)).collect()
}

/// `rbuild man`.
pub(super) fn manual(directory: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(FailureKind::Other, format!("write manual pages to {}: {error}", directory.display()))
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(crate::cli::command(), directory).map_err(failed)
}
