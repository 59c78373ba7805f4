//! What a file of a context is in a reproducible build: as little of where and how it was checked out as can be.
//!
//! Its time says when it was checked out, and permissions of group and others follow the umask of who did it. Git keeps
//! neither, so with this rule every checkout of a commit is the same context.

use crate::tree::{Kind, Node, STEADY};

/// Setuid, setgid and sticky: no umask makes these.
const SPECIAL: u32 = 0o7000;

/// Takes out of a node what depends on its checkout.
pub(super) fn steady(node: &mut Node) {
    node.mtime = STEADY;
    if node.mode & SPECIAL == 0 && !matches!(node.kind, Kind::Symlink(_)) {
        // Others may read and execute what the owner may, and never write.
        let shared = node.mode & 0o500;
        node.mode = node.mode & 0o700 | shared >> 3 | shared >> 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Time;

    #[test]
    fn what_a_umask_decides_does_not_count_and_special_modes_stay() {
        let modes = [(0o644, 0o644), (0o664, 0o644), (0o600, 0o644), (0o775, 0o755), (0o700, 0o755), (0o400, 0o444)];
        for (mode, expected) in modes.into_iter().chain([(0o4711, 0o4711), (0o1777, 0o1777)]) {
            let mut node = Node { mode, ..Node::directory(Time::default()) };
            steady(&mut node);
            assert_eq!((node.mode, node.mtime), (expected, STEADY), "{mode:o}");
        }
    }
}
