//! Work on many items, some at a time, with results in the order of the items.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

/// Stack of a worker: deep call chains recurse.
pub(crate) const WORKER_STACK: usize = 64 << 20;

/// Works on all items and hands the results on in order, until `each` says false. A worker has
/// something of its own, made by `make`.
pub(crate) fn in_order<'a, T: Sync, R: Send, S>(
    items: &'a [T],
    jobs: usize,
    make: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> R + Sync,
    mut each: impl FnMut(&'a T, R) -> bool,
) {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (send, receive) = mpsc::channel();
    let run = |send: mpsc::Sender<(usize, R)>| {
        let mut own = make();
        while !stop.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else { return };
            // The receiver is gone only when nobody wants more.
            let _gone = send.send((i, work(&mut own, item)));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            let (send, run) = (send.clone(), &run);
            let built = std::thread::Builder::new().stack_size(WORKER_STACK);
            built.spawn_scoped(scope, move || run(send)).expect("a thread can be started");
        }
        drop(send);
        let mut waiting = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            while !waiting.contains_key(&at) {
                let Ok((i, r)) = receive.recv() else { return };
                waiting.insert(i, r);
            }
            let result = waiting.remove(&at);
            if !result.is_none_or(|r| each(item, r)) {
                stop.store(true, Ordering::Relaxed);
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(_: &mut (), i: &u64) -> u64 {
        std::thread::sleep(std::time::Duration::from_micros(500 * (i % 3)));
        *i
    }

    #[test]
    fn results_keep_the_order_of_items() {
        let items: Vec<u64> = (0..50).collect();
        let mut seen = Vec::new();
        in_order(
            &items,
            3,
            || (),
            slow,
            |_, i| {
                seen.push(i);
                true
            },
        );
        assert_eq!(seen, items);
    }

    #[test]
    fn it_stops_when_it_is_told_to() {
        let items: Vec<u64> = (0..50).collect();
        let mut seen = 0;
        in_order(
            &items,
            2,
            || (),
            slow,
            |_, i| {
                seen += 1;
                i < 9
            },
        );
        assert_eq!(seen, 10);
    }
}
