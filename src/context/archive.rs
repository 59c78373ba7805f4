//! A tar as a build context, and the recognition of archives by their first bytes.
//!
//! Contract: a [`TarContext`] is what unpacking the tar would make, owners kept, without a tree on disk; names never
//! leave its root. Decompression is the caller's business. It knows nothing of what ADD does with an archive.
