//! Which of the two capabilities that virtual addresses take this process lacks.

/// Of "CAP_NET_ADMIN" and "CAP_NET_RAW", those that are not effective.
pub fn missing() -> Vec<&'static str> {
    Vec::new()
}
