//! `rbuild` builds container images from Dockerfiles.

pub mod build;
pub mod cache;
pub mod cli;
pub mod context;
pub mod diagnostic;
pub mod digest;
pub mod dockerfile;
pub mod executor;
pub mod export;
pub mod image;
pub mod layer;
pub mod owners;
pub mod plan;
pub mod progress;
pub mod registry;
pub mod rootfs;
pub mod sandbox;
pub mod snapshot;
pub mod store;
pub mod sys;
pub mod tree;
pub mod ui;
