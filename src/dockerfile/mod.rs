//! Text → AST with spans.

pub mod ast;
