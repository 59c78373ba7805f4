//! Several pieces of work at the same time, but never more than memory and registries bear.
//!
//! An image has up to 127 layers, and each that is unpacked, compressed or fetched takes some megabytes and descriptors.

use std::sync::Mutex;

use super::ExecuteError;

/// How many layers are worked on at the same time.
pub(super) const ABREAST: usize = 4;

/// Does a piece of work for each item; the results in the items' order. After a failure nothing new is begun.
///
/// # Errors
/// The failure of the first item, in order, that failed.
pub fn abreast<I: Sync, T: Send, E: From<ExecuteError> + Send>(
    items: &[I],
    work: impl Fn(usize, &I) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let todo = Mutex::new(items.iter().enumerate());
    std::thread::scope(|scope| {
        let run = || {
            loop {
                let Some((number, item)) = todo.lock().expect("no holder panics").next() else { return };
                let result = work(number, item);
                if result.is_err() {
                    todo.lock().expect("no holder panics").by_ref().for_each(drop);
                }
                done.lock().expect("no holder panics").push((number, result));
            }
        };
        let threads: Vec<_> = (0..items.len().min(ABREAST)).map(|_| scope.spawn(run)).collect();
        let joined: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        if joined.iter().any(Result::is_err) {
            return Err(ExecuteError::panicked("work on a layer"));
        }
        Ok(())
    })?;
    let mut done = done.into_inner().expect("no holder panics");
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_hundred_layers_do_not_take_a_hundred_threads() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let items: Vec<usize> = (0..100).collect();
        let results = abreast(&items, |number, item| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(1));
            now.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, ExecuteError>((number, *item))
        });
        assert_eq!(results.unwrap(), items.iter().map(|item| (*item, *item)).collect::<Vec<_>>());
        assert!(most.into_inner() <= ABREAST);
    }

    #[test]
    fn a_failure_ends_the_work_and_a_panic_is_an_error() {
        let begun = AtomicUsize::new(0);
        let failed = abreast(&[0; 100], |number, _| {
            begun.fetch_add(1, Ordering::SeqCst);
            if number == 0 {
                return Err(ExecuteError::Cancelled);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
            Ok(())
        });
        assert!(matches!(failed, Err(ExecuteError::Cancelled)) && begun.into_inner() < 50);
        assert!(abreast(&[0], |_, _| -> Result<(), ExecuteError> { panic!("as the test wants") }).is_err());
    }
}
