//! Gives memory that was freed back to the operating system.
//!
//! glibc gives back only what is free at the top of an arena. What lies below one allocation that stays
//! (after a checkpoint, or after many devices connected at once) remains resident for as long as the process
//! lives. `malloc_trim(3)` gives back every free page, wherever it lies. No maintained crate offers it as a
//! safe function.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::sync::Mutex;

    /// How much must come back for it to be worth holding anybody up: so many bytes, and such a part of what
    /// there is.
    const WORTH_IT: (usize, usize) = (8 << 20, 16);
    /// Below this there is not so much, in bytes.
    const SMALL: usize = 32 << 20;
    /// The most calls that are passed over after some that brought nothing back.
    const LONGEST_REST: u32 = 15;

    static TRIMS: Mutex<Trims> = Mutex::new(Trims { rest: 0, next: 0 });

    /// When to trim. What is free is not known without walking through all of it, which costs as much as
    /// giving it back: so it is tried, and while that brings little, ever less often.
    struct Trims {
        /// So many calls are passed over.
        rest: u32,
        /// And so many after the next trim, if it brings little.
        next: u32,
    }

    impl Trims {
        fn call(&mut self, resident: impl Fn() -> usize, trim: impl FnOnce()) {
            let before = resident();
            let worth_it = WORTH_IT.0.max(before / WORTH_IT.1);
            if before < SMALL {
                return;
            }
            if self.rest > 0 {
                self.rest -= 1;
                return;
            }
            trim();
            let was_worth_it = resident() + worth_it <= before;
            self.next = if was_worth_it { 0 } else { (2 * self.next + 1).min(LONGEST_REST) };
            self.rest = self.next;
        }
    }

    /// Bytes of this process in memory; 0 if that cannot be read.
    pub(super) fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
        kib.unwrap_or(0) << 10
    }

    pub(super) fn trim() {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // One is enough at a time.
        let Ok(mut trims) = TRIMS.try_lock() else { return };
        trims.call(resident, || {
            // SAFETY: thread-safe by its manual page, takes any number, and touches no memory that is in use.
            unsafe { malloc_trim(0) };
        });
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_brings_little_is_tried_ever_less_often() {
            const FULL: usize = 512 << 20;
            let mut trims = Trims { rest: 0, next: 0 };
            let count = |trims: &mut Trims, left: usize| {
                let (resident, mut done) = (std::cell::Cell::new(FULL), 0);
                (0..64).for_each(|_| {
                    trims.call(
                        || resident.get(),
                        || {
                            done += 1;
                            resident.set(left);
                        },
                    );
                    resident.set(FULL);
                });
                done
            };
            assert_eq!(count(&mut trims, FULL - FULL / WORTH_IT.1 + 1), 7, "after 1, 3, 7, then 15 calls");
            assert!(count(&mut trims, FULL / 2) > 48, "what brings much is tried each time");
            trims.call(|| SMALL - 1, || panic!("there is not so much"));
            // Of little, 8 MiB are worth it.
            for (left, next) in [(32 << 20, 0), (33 << 20, 1)] {
                let (mut trims, resident) = (Trims { rest: 0, next: 0 }, std::cell::Cell::new(40 << 20));
                trims.call(|| resident.get(), || resident.set(left));
                assert_eq!(trims.next, next, "{left}");
            }
        }
    }
}

/// Gives back what can be given back, where the process is larger than 32 MiB and lately 8 MiB and a
/// sixteenth came back. That takes up to some 25 ms for 100 MB, and holds up whoever allocates from the same
/// arena meanwhile. Does nothing where the C library is not glibc.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::trim();
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    #[test]
    fn memory_below_what_stays_is_given_back() {
        let mut all: Vec<Vec<u8>> = (0..10_000).map(|_| vec![1; 8192]).collect();
        let full = super::glibc::resident();
        // 80 MB, of which the last piece stays and keeps the top of the arena where it is.
        let last = all.pop();
        drop(all);
        super::trim();
        let left = super::glibc::resident();
        assert!(left + (60 << 20) < full, "{left} of {full} bytes are left");
        drop(last);
    }
}
