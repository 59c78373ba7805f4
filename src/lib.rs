//! `rbuild` builds container images from Dockerfiles: one static binary, no daemon, no root, no set-up.
//!
//! # Bird's-eye view
//!
//! ```text
//! argv ─ cli ─▶ request ─▶ read Dockerfile ─▶ AST ─▶ plan (graph of steps) ─▶ execute (cache, COPY, RUN) ─▶ image ─▶ outputs
//! ```
//!
//! [`build`] tells that story. The plan is pure: from the text, the command line and the configs of base images it
//! follows which steps there are and what the image's config will be. The executor carries the steps out, independent
//! ones at the same time, each only if its key is not in the cache. What a step makes is a *layer*.
//!
//! # The life of a layer
//!
//! Every layer passes through this process once, as one stream of tar: hashed (its diffID), indexed, and at the same time
//! compressed and unpacked as far as something wants it. Of what a RUN wrote, and nothing wants the bytes of, only the
//! digest is made, where the tree is read. A layer has up to four forms, each made on demand and once:
//!
//! * **recipe**: what a COPY will put where, with digests ([`executor::copy`]); enough for the cache;
//! * **index**: what is in it, without content ([`layer::index`]); what later COPY, WORKDIR and USER look paths up in, so
//!   that none of them needs a tree;
//! * **tree**: a directory in overlay's form, which only a RUN, or a copy out of the layer, needs;
//! * **blob**: the compressed tar, which only an output needs; a base image's stays in its registry until then.
//!
//! # Processes
//!
//! `main` has many threads and is never in a namespace; it holds credentials. The *holder* is this program started again,
//! with one thread: it enters a user and a mount namespace once per build and starts, for `main`, RUN commands (each in
//! namespaces of its own below; from the second one on, the next one's process is kept ready) and workers that read and write
//! trees with the ids that files in them have. It is started when the first step needs it; a build of cache hits never does.
//!
//! # Invariants
//!
//! 1. Nothing happens that the result does not need.
//! 2. Same input, same bytes: no times of the build, no host names, no effect of thread counts in a layer.
//! 3. The cache never lies and can explain itself: one framed, versioned key ([`cache::key`]); every miss has a reason.
//! 4. Every untrusted thing has one gate: a path in an image goes through [`rootfs`], bytes from outside through
//!    [`digest::VerifyReader`], a command through [`sandbox`].
//! 5. The store is whole at any moment: an entry appears by rename, after its bytes are there.
//!
//! # Modules, in reading order
//!
//! | module | what it does |
//! |---|---|
//! | [`cli`] | argv, environment, clock → request; one file per command; errors → hints and exit code |
//! | [`build`] | the story of one build |
//! | [`dockerfile`] | text → AST with spans; pure, never fails |
//! | [`plan`] | AST and base configs → graph of steps and image config; pure |
//! | [`executor`] | the graph, carried out in parallel |
//! | [`cache`] | keys, hits, and why there was none |
//! | [`archive`] | archives of images → documents and blobs |
//! | [`attest`] | what is said about an image → statements beside it; pure |
//! | [`export`] | image → OCI, Docker, registry, plain files |
//! | [`context`] | what the user sends: directory or tar, less what is ignored |
//! | [`layer`] | file-system changes ↔ tar; index; compression |
//! | [`sbom`] | the packages in an image's files → SPDX |
//! | [`snapshot`] | a root file system for a step |
//! | [`sandbox`] | commands and workers in namespaces |
//! | [`registry`] | pull, push, credentials |
//! | [`sign`] | keys and signatures, as cosign reads them |
//! | [`store`] | content-addressed plain files |
//! | [`image`] | OCI's data model; no I/O |
//! | [`tree`], [`rootfs`] | a file-system tree as data; the gate for paths in a real one |
//! | [`ui`], [`progress`], [`diagnostic`] | what is told, and how it is drawn |
//! | [`unfinished`] | files that get their name when they are complete, or go |
//! | [`digest`], [`sys`] | digests; the only `unsafe` |
//!
//! Which module may use which is a table in `tests/architecture.rs`, and a test. The same word names a feature in each
//! phase (`dockerfile/transfer.rs`, `plan/copy.rs`, `executor/copy.rs`), so one guess finds it.

pub mod archive;
pub mod attest;
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
pub mod sbom;
pub mod sign;
pub mod snapshot;
pub mod store;
pub mod sys;
pub mod tree;
pub mod ui;
pub mod unfinished;
