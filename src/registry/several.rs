//! Several exchanges at the same time.

use std::sync::Mutex;
use std::thread;

/// What travels at once: enough to fill a line, few enough for a registry's limits.
const PARALLEL: usize = 4;

/// Does work for each item; the results in the items' order. After a failure nothing new is begun.
///
/// # Errors
/// The failure of the first item, in order, that failed.
pub(super) fn several<I: Sync, T: Send, E: Send>(
    items: &[I],
    work: impl Fn(&I) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let todo = Mutex::new(items.iter().enumerate());
    thread::scope(|scope| {
        for _ in 0..PARALLEL.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let next = todo.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
                    let Some((number, item)) = next else { return };
                    let result = work(item);
                    if result.is_err() {
                        // One that failed makes the rest useless.
                        todo.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).by_ref().for_each(drop);
                    }
                    done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_come_in_order_and_a_failure_ends_the_work() {
        let items: Vec<usize> = (0..50).collect();
        assert_eq!(several(&items, |item| Ok::<_, ()>(item * 2)), Ok(items.iter().map(|item| item * 2).collect()));
        let begun = AtomicUsize::new(0);
        let failed = several(&items, |item| {
            begun.fetch_add(1, Ordering::SeqCst);
            if *item == 0 { Err("first") } else { Ok(()) }
        });
        assert_eq!(failed, Err("first"));
        assert!(several(&[] as &[u8], |_| Err::<(), _>(())).is_ok());
    }
}
