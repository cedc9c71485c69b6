//! What the allocator is asked for, counted by thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, and a count.
pub struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// Allocations of this thread so far.
pub fn asked() -> u64 {
    ASKED.get()
}

/// Bytes that this thread has allocated and not freed, as asked for: malloc adds 8 to 24 bytes to each piece.
pub fn live() -> i64 {
    LIVE.get()
}

fn note(more: usize, less: usize) {
    ASKED.set(ASKED.get() + u64::from(more > 0));
    LIVE.set(LIVE.get() + more as i64 - less as i64);
}

// SAFETY: every call goes to the system's allocator as it came; the cells have neither a destructor nor a lazy
// initialiser, so counting allocates nothing and works until the last instruction of a thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(0, layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size, layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
