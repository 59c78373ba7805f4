//! What the commands take that say how rbuild is used.

use clap::Args;
use clap_complete::Shell;

pub(super) const COMPLETION_HELP: &str = "\
Installing:
  bash    rbuild completion bash > ~/.local/share/bash-completion/completions/rbuild
  zsh     rbuild completion zsh > ~/.zfunc/_rbuild      (with fpath+=~/.zfunc before compinit)
  fish    rbuild completion fish > ~/.config/fish/completions/rbuild.fish";

/// What `completion` takes.
#[derive(Debug, Args)]
pub struct CompletionArguments {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_name = "SHELL", hide_possible_values = true)]
    pub shell: Shell,
}

/// What `man` takes.
#[derive(Debug, Args)]
pub struct ManualArguments {
    /// A directory; made if it is missing
    #[arg(value_name = "DIR")]
    pub directory: String,
}
