//! The `rbuild` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else, threads above all: this process may be one of our own children.
    rbuild::sandbox::enter_if_child(rbuild::executor::WORKERS);
    rbuild::cli::main()
}
