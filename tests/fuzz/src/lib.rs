//! What all targets share: the bound on memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[doc(hidden)]
pub use libfuzzer_sys::fuzz_target;

/// What may be taken at once whatever the input: the room for a reply (128 KiB), and every port of a
/// range, which is one allocation.
const ANYWAY: usize = 2 << 20;

/// And for each byte of the input: a state's error is looked at character by character.
const PER_BYTE: usize = 256;

/// The system's allocator, and how much of it is in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is the system allocator's work; the numbers beside it are only kept.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `check`, which has to do with memory in proportion to an input of this length, and to leave
/// nothing behind.
pub fn in_proportion(length: usize, check: impl FnOnce()) {
    let before = IN_USE.load(Relaxed);
    PEAK.store(before, Relaxed);
    check();
    let peak = PEAK.load(Relaxed) - before;
    assert!(peak <= ANYWAY + PER_BYTE * length, "{peak} bytes of memory for {length} of input");
}

/// Makes a function that takes bytes a fuzz target.
#[macro_export]
macro_rules! target {
    ($check:path) => {
        $crate::fuzz_target!(|bytes: &[u8]| $crate::in_proportion(bytes.len(), || $check(bytes)));
    };
}
