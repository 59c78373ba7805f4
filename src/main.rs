//! The `rbuild` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    rbuild::sys::memory::return_large_blocks();
    // Before all that starts threads: this process may be one of our own children.
    rbuild::sandbox::enter_if_child(rbuild::executor::WORKERS);
    rbuild::cli::main()
}
