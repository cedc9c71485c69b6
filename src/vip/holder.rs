//! One task per address: the machine, and what it acts through.
