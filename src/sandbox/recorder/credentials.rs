//! Who a process would be: the rules of credentials(7) and setresuid(2), without the kernel.

use rustix::io::Errno;

use super::{Caller, Otherwise, Outcome, Recorder};
use crate::owners::Owner;

/// Real, effective and saved id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ids {
    pub(super) real: u32,
    pub(super) effective: u32,
    pub(super) saved: u32,
}

impl Ids {
    fn all(id: u32) -> Ids {
        Ids { real: id, effective: id, saved: id }
    }

    fn has(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }
}

/// The ids of a process. The first one of a command is root, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) struct Credentials {
    pub(super) users: Ids,
    pub(super) groups: Ids,
    pub(super) supplementary: Vec<u32>,
    /// Whether capabilities are permitted: not after the last id of root was given up.
    permitted: bool,
    /// `PR_SET_KEEPCAPS`.
    keeps: bool,
    /// Whether it may have another root directory than the command.
    pub(super) other_root: bool,
}

impl Default for Credentials {
    fn default() -> Credentials {
        Credentials {
            users: Ids::default(),
            groups: Ids::default(),
            supplementary: Vec::new(),
            permitted: true,
            keeps: false,
            other_root: false,
        }
    }
}

/// Questions and changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Identity {
    RealUser,
    EffectiveUser,
    RealGroup,
    EffectiveGroup,
    Users,
    Groups,
    Supplementary,
    SetUser,
    SetGroup,
    SetTwoUsers,
    SetTwoGroups,
    SetUsers,
    SetGroups,
    SetFileUser,
    SetFileGroup,
    SetSupplementary,
    KeepCapabilities,
    ChangeRoot,
}

impl Credentials {
    /// Whether what it makes belongs to root, as it does without a record.
    pub(super) fn makes_roots_files(&self) -> bool {
        self.users.effective == 0 && self.groups.effective == 0
    }

    pub(super) fn is_privileged(&self) -> bool {
        self.permitted && (self.users.effective == 0 || self.keeps)
    }

    pub(super) fn in_group(&self, group: u32) -> bool {
        self.groups.effective == group || self.supplementary.contains(&group)
    }

    /// Whether a file's mode allows these things (4 to read, 2 to write, 1 to enter).
    pub(super) fn may(&self, owner: Owner, mode: u32, wanted: u32) -> bool {
        let allowed = if owner.uid == self.users.effective {
            mode >> 6
        } else if self.in_group(owner.gid) {
            mode >> 3
        } else {
            mode
        };
        self.is_privileged() || allowed & wanted == wanted
    }

    /// The owner that `chown` makes of the one before, if it is allowed.
    pub(super) fn may_own(&self, before: Owner, uid: Option<u32>, gid: Option<u32>) -> Result<Owner, Errno> {
        let after = Owner { uid: uid.unwrap_or(before.uid), gid: gid.unwrap_or(before.gid) };
        let own = before.uid == self.users.effective && after.uid == before.uid;
        if self.is_privileged() || (own && (after.gid == before.gid || self.in_group(after.gid))) {
            return Ok(after);
        }
        Err(Errno::PERM)
    }

    fn set_users(&mut self, ids: Ids) {
        let had_root = self.users.has(0);
        self.users = ids;
        if had_root && !ids.has(0) && !self.keeps {
            self.permitted = false;
        }
    }

    /// What is left, or gained, when a program is started whose owner's id (or group's) it takes over.
    pub(super) fn execute(&mut self, user: Option<u32>, group: Option<u32>) {
        self.users.effective = user.unwrap_or(self.users.effective);
        self.groups.effective = group.unwrap_or(self.groups.effective);
        self.users.saved = self.users.effective;
        self.groups.saved = self.groups.effective;
        self.keeps = false;
        self.permitted = self.users.effective == 0 || self.users.real == 0;
    }
}

/// `setuid`: all three for the privileged, the effective one for others.
fn set_one(ids: Ids, privileged: bool, id: u32) -> Result<Ids, Errno> {
    match id {
        u32::MAX => Err(Errno::INVAL),
        id if privileged => Ok(Ids::all(id)),
        id if [ids.real, ids.saved].contains(&id) => Ok(Ids { effective: id, ..ids }),
        _ => Err(Errno::PERM),
    }
}

/// `setreuid`: the saved one follows where the real one is set, or the effective one to something new.
fn set_two(ids: Ids, privileged: bool, real: Option<u32>, effective: Option<u32>) -> Result<Ids, Errno> {
    let real_allowed = real.is_none_or(|id| [ids.real, ids.effective].contains(&id));
    let allowed = real_allowed && effective.is_none_or(|id| ids.has(id));
    if !privileged && !allowed {
        return Err(Errno::PERM);
    }
    let mut new = Ids { real: real.unwrap_or(ids.real), effective: effective.unwrap_or(ids.effective), ..ids };
    if real.is_some() || effective.is_some_and(|id| id != ids.real) {
        new.saved = new.effective;
    }
    Ok(new)
}

fn set_three(ids: Ids, privileged: bool, wanted: [Option<u32>; 3]) -> Result<Ids, Errno> {
    if !privileged && !wanted.into_iter().flatten().all(|id| ids.has(id)) {
        return Err(Errno::PERM);
    }
    let [real, effective, saved] = wanted;
    Ok(Ids {
        real: real.unwrap_or(ids.real),
        effective: effective.unwrap_or(ids.effective),
        saved: saved.unwrap_or(ids.saved),
    })
}

/// `NGROUPS_MAX`.
const MOST_GROUPS: u32 = 65536;

impl Recorder {
    pub(super) fn identity(&mut self, caller: &Caller, identity: Identity) -> Outcome {
        let Credentials { users, groups, supplementary, .. } = &caller.credentials;
        let number = match identity {
            Identity::RealUser => users.real,
            Identity::EffectiveUser | Identity::SetFileUser => users.effective,
            Identity::RealGroup => groups.real,
            // The ids for files follow the effective ones here; the old one is what is returned, always.
            Identity::EffectiveGroup | Identity::SetFileGroup => groups.effective,
            Identity::Users => return tell_three(caller, users),
            Identity::Groups => return tell_three(caller, groups),
            Identity::Supplementary => return tell_groups(caller, supplementary),
            _ => {
                let mut credentials = caller.credentials.clone();
                let outcome = change(caller, identity, &mut credentials)?;
                self.still_waits(caller)?;
                self.identities.change(caller.notice.thread, credentials)?;
                return outcome;
            }
        };
        Ok(Some(number.into()))
    }
}

fn tell_three(caller: &Caller, ids: &Ids) -> Outcome {
    for (argument, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
        caller.write_ids(caller.address(argument), &[id])?;
    }
    Ok(Some(0))
}

fn tell_groups(caller: &Caller, groups: &[u32]) -> Outcome {
    let room = caller.number(0) as usize;
    if room != 0 {
        if room < groups.len() {
            return Err(Errno::INVAL.into());
        }
        caller.write_ids(caller.address(1), groups)?;
    }
    Ok(Some(i64::try_from(groups.len()).unwrap_or(0)))
}

/// Makes the change. The inner result is what to answer once it is kept.
fn change(caller: &Caller, identity: Identity, credentials: &mut Credentials) -> Result<Outcome, Otherwise> {
    let privileged = credentials.is_privileged();
    let (users, groups) = (credentials.users, credentials.groups);
    let three = || [caller.id(0), caller.id(1), caller.id(2)];
    match identity {
        Identity::SetUser => credentials.set_users(set_one(users, privileged, caller.number(0))?),
        Identity::SetTwoUsers => credentials.set_users(set_two(users, privileged, caller.id(0), caller.id(1))?),
        Identity::SetUsers => credentials.set_users(set_three(users, privileged, three())?),
        Identity::SetGroup => credentials.groups = set_one(groups, privileged, caller.number(0))?,
        Identity::SetTwoGroups => credentials.groups = set_two(groups, privileged, caller.id(0), caller.id(1))?,
        Identity::SetGroups => credentials.groups = set_three(groups, privileged, three())?,
        Identity::SetSupplementary => {
            let count = caller.number(0);
            if !privileged {
                return Err(Errno::PERM.into());
            }
            if count > MOST_GROUPS {
                return Err(Errno::INVAL.into());
            }
            credentials.supplementary = caller.read_ids(caller.address(1), count as usize)?;
            // As the kernel keeps them.
            credentials.supplementary.sort_unstable();
        }
        Identity::KeepCapabilities => {
            credentials.keeps = caller.number(1) == 1;
            return Ok(Err(Otherwise::Kernel));
        }
        // If it fails, its root is the command's all the same, which is slower to find but found.
        _ => {
            credentials.other_root = true;
            return Ok(Err(Otherwise::Kernel));
        }
    }
    Ok(Ok(Some(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: u32) -> Credentials {
        let mut credentials = Credentials { groups: Ids::all(id), ..Credentials::default() };
        credentials.set_users(Ids::all(id));
        credentials
    }

    #[test]
    fn who_gave_root_up_cannot_get_it_back() {
        let dropped = user(100);
        assert!(!dropped.is_privileged());
        assert_eq!(set_one(dropped.users, dropped.is_privileged(), 0), Err(Errno::PERM));
        assert_eq!(set_two(dropped.users, false, Some(0), None), Err(Errno::PERM));
        assert_eq!(set_three(dropped.users, false, [None, Some(0), None]), Err(Errno::PERM));
        assert_eq!(set_three(dropped.users, false, [None, Some(100), None]), Ok(dropped.users));
    }

    #[test]
    fn who_lent_root_away_gets_it_back() {
        let mut credentials = Credentials::default();
        credentials.set_users(set_three(credentials.users, true, [None, Some(33), None]).unwrap());
        assert!(!credentials.is_privileged());
        assert_eq!(set_one(credentials.users, false, 0).unwrap(), Ids::default());
        // setreuid(33, 0) and its way back, as old daemons do it.
        let swapped = set_two(Ids::default(), true, Some(0), Some(33)).unwrap();
        assert_eq!(swapped, Ids { real: 0, effective: 33, saved: 33 });
        assert_eq!(set_two(swapped, false, Some(33), Some(0)).unwrap(), Ids { real: 33, effective: 0, saved: 0 });
    }

    #[test]
    fn a_program_with_setuid_makes_root_again() {
        let mut credentials = user(1000);
        credentials.execute(Some(0), None);
        assert!(credentials.is_privileged());
        assert_eq!(credentials.users, Ids { real: 1000, effective: 0, saved: 0 });
        credentials.set_users(set_one(credentials.users, true, 0).unwrap());
        assert_eq!(credentials.users, Ids::default());
    }

    #[test]
    fn kept_capabilities_last_until_a_program_is_started() {
        let mut credentials = Credentials { keeps: true, ..Credentials::default() };
        credentials.set_users(Ids::all(8));
        assert!(credentials.is_privileged());
        credentials.execute(None, None);
        assert!(!credentials.is_privileged());
    }

    #[test]
    fn owners_change_only_as_the_kernel_lets_them() {
        let (own, roots) = (Owner { uid: 5, gid: 5 }, Owner::ROOT);
        let mut app = user(5);
        app.supplementary = vec![44];
        assert_eq!(app.may_own(own, None, Some(44)), Ok(Owner { uid: 5, gid: 44 }));
        assert_eq!(app.may_own(own, Some(5), None), Ok(own));
        assert_eq!(app.may_own(own, None, Some(45)), Err(Errno::PERM));
        assert_eq!(app.may_own(own, Some(0), None), Err(Errno::PERM));
        assert_eq!(app.may_own(roots, None, None), Err(Errno::PERM));
        assert_eq!(Credentials::default().may_own(own, Some(7), None), Ok(Owner { uid: 7, gid: 5 }));
        assert!(app.may(own, 0o700, 3) && !app.may(roots, 0o755, 2) && app.may(roots, 0o1777, 3));
        assert!(app.may(Owner { uid: 0, gid: 44 }, 0o770, 2) && !app.may(own, 0o077, 1));
    }
}
