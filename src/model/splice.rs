//! How bulk data goes from a server to its client.

/// When bytes go by splice(2), past this process's memory, instead of being copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Splice {
    /// As soon as a direction streams.
    #[default]
    Auto,
    /// From the first bytes on, as with HAProxy's `option splice-response`.
    Always,
    Off,
}

impl Splice {
    pub fn as_str(self) -> &'static str {
        match self {
            Splice::Auto => "auto",
            Splice::Always => "always",
            Splice::Off => "off",
        }
    }
}

/// What became of it, and what it has done so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpliceSnapshot {
    pub configured: Splice,
    /// Why everything is copied all the same: what the trial at the start, or at a reload, has found.
    pub unusable: Option<String>,
    /// Since the start.
    pub bytes: u64,
}

impl SpliceSnapshot {
    pub const STATES: [&str; 4] = ["auto", "always", "off", "unusable"];

    /// One of [`Self::STATES`].
    pub fn state(&self) -> &'static str {
        match (self.configured, &self.unusable) {
            (Splice::Auto | Splice::Always, Some(_)) => "unusable",
            (configured, _) => configured.as_str(),
        }
    }
}
