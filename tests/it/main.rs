//! Drives the real `rbuild` in an environment of its own, against real registries and readers of images.
//!
//! Every test makes what it needs (directories, store, registry on a free port) and takes it away again, so the tests run
//! in any order and at once. A suite that runs as root starts `rbuild` as root, as a user with subordinate ids and as a user
//! without; a suite that runs unprivileged starts it as itself. What a machine lacks is said by `skip!`, which fails where
//! the variable `CI` is set.
//!
//! Variables: `RBUILD_TEST_BIN` (the program to test), `RBUILD_TEST_SOURCE` (the checkout), `RBUILD_TEST_CACHE` (base images,
//! kept between runs), `UPDATE=1` (rewrite the expectations in testdata/build), `RBUILD_TEST_THOROUGH=1` (every fault, 2,000
//! kills, 300 power cuts, 200 builds at once, five minutes of mixed work: hours), `CI`.

#[macro_use]
mod harness;

mod agents;
mod archives;
mod bases;
mod container;
mod copying;
mod corpus;
mod image;
mod image_commands;
mod registry_server;
mod terminal;
mod web_server;

mod attestations;
mod build;
mod catalogue;
mod changing;
mod checks;
#[path = "../support/cloud.rs"]
mod cloud;
mod cloud_cache;
mod concurrent;
mod early_push;
mod edits;
mod errors;
mod executor;
mod explain;
mod first_build;
mod foreign;
mod honest;
mod interrupt;
mod ladder;
mod leftovers;
mod limits;
mod login;
mod main_job;
mod memory;
mod mounts;
mod network;
mod offline;
mod outputs;
mod owners;
mod places;
mod platforms;
mod recipes;
mod registries;
mod registry;
mod remote;
mod remote_cache;
mod reproducible;
mod running;
mod sbom;
mod schemas;
mod secrets;
mod secrets_scan;
mod shell;
mod store;
mod surroundings;
