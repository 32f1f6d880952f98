//! Gives memory that was freed back to the operating system.
//!
//! glibc gives back only what is free at the top of an arena. What lies below one allocation that stays
//! (after a checkpoint, or after many devices connected at once) remains resident for as long as the process
//! lives. `malloc_trim(3)` gives back every free page, wherever it lies. No maintained crate offers it as a
//! safe function.

/// How much must be free before it is worth holding anybody up, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const WORTH_IT: usize = 64 << 20;

/// The struct `mallinfo2` of glibc 2.33 and later: ten sizes, of which the last but one is `fordblks`, what
/// is free in all arenas, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[repr(C)]
struct MallInfo2 {
    sizes: [usize; 10],
}

/// Gives back what can be given back, if at least 64 MiB are free. That takes up to some 25 ms where there is
/// much of it, and holds up whoever allocates from the same arena meanwhile. Does nothing where the C library
/// is not glibc.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
            fn mallinfo2() -> MallInfo2;
        }
        // SAFETY: the struct is as mallinfo(3) describes it, and the call is thread-safe.
        let [.., free, _keep] = unsafe { mallinfo2() }.sizes;
        if free >= WORTH_IT {
            // SAFETY: thread-safe by its manual page, takes any number, and touches no memory that is in use.
            unsafe { malloc_trim(0) };
        }
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    fn resident_pages() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number")
    }

    #[test]
    fn memory_below_what_stays_is_given_back() {
        let mut all: Vec<Vec<u8>> = (0..10_000).map(|_| vec![1; 8192]).collect();
        let full = resident_pages();
        // 80 MB, of which the last piece stays and keeps the top of the arena where it is.
        let last = all.pop();
        drop(all);
        super::trim();
        assert!(resident_pages() + 15_000 < full, "{} of {full} pages are left", resident_pages());
        drop(last);
    }
}
