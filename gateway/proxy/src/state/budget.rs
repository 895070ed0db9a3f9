//! How many retries a Backend may get: a share of its requests over the last ten seconds, and a few a second always.

use parking_lot::Mutex;
use selvage_policy::traffic::Budget;
use std::time::Duration;

/// The window, in slots of one second.
const WINDOW: u64 = 10;

/// Requests and retries of the last ten seconds.
#[derive(Debug, Default)]
pub struct RetryBudget(Mutex<[Slot; WINDOW as usize]>);

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Which second it counts.
    second: u64,
    requests: u64,
    retries: u64,
}

impl RetryBudget {
    /// Counts a request. `now` is the time of [`selvage_policy::Exchange::now`].
    pub fn request(&self, now: Duration) {
        slot(&mut self.0.lock(), now).requests += 1;
    }

    /// Takes one retry if there is one left.
    pub fn try_retry(&self, limit: Budget, now: Duration) -> bool {
        let mut slots = self.0.lock();
        let oldest = now.as_secs().saturating_sub(WINDOW - 1);
        let recent = slots.iter().filter(|slot| slot.second >= oldest && slot.second <= now.as_secs());
        let (requests, retries) = recent.fold((0, 0), |(requests, retries), slot| (requests + slot.requests, retries + slot.retries));
        let allowed = requests * u64::from(limit.percent) / 100 + u64::from(limit.min_per_second) * WINDOW;
        let left = retries < allowed;
        if left {
            slot(&mut slots, now).retries += 1;
        }
        left
    }
}

fn slot(slots: &mut [Slot; WINDOW as usize], now: Duration) -> &mut Slot {
    let second = now.as_secs();
    let slot = &mut slots[(second % WINDOW) as usize];
    if slot.second != second {
        *slot = Slot { second, ..Slot::default() };
    }
    slot
}
