//! `--check`: what is to be said about a Dockerfile, without building it.

use super::environment::Environment;
use super::failure::Failure;
use super::request::Request;

pub(super) fn run(_request: &Request, _environment: &Environment) -> Result<(), Failure> {
    unreachable!()
}
