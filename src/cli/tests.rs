//! Argv → request, by a table of examples.
