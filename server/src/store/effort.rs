//! What a step costs, counted in entries rather than in time, so that a test can bound it: whoever holds the
//! ledger's lock keeps everybody waiting. Counts in tests only.

#[cfg(test)]
thread_local! {
    static TOUCHED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Notes that so many entries were looked at, moved or dropped.
#[inline]
pub(crate) fn touched(entries: usize) {
    #[cfg(test)]
    TOUCHED.set(TOUCHED.get() + entries);
    #[cfg(not(test))]
    let _ = entries;
}

/// How many entries this thread has touched since it was last asked.
#[cfg(test)]
pub(crate) fn taken() -> usize {
    TOUCHED.replace(0)
}
