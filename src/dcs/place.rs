//! What is read and watched: everything of a cluster, or one key of it and no other.

use std::net::IpAddr;

use super::patroni::vip_key;

/// Where the keys of one cluster are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Everything below a prefix, see [`super::patroni::prefix`].
    Below(String),
    /// One key, read as it is written, because a user may have the right to this one alone. It means what the
    /// key `stands_for` below the prefix of a cluster would mean.
    Key { key: String, stands_for: String },
}

impl Place {
    /// Everything below `prefix`. Without its last slash, `/service/one` would also be the prefix of
    /// `/service/one2`.
    pub fn below(prefix: impl Into<String>) -> Place {
        let mut prefix = prefix.into();
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        Place::Below(prefix)
    }

    /// A key whose value names who leads, whatever it is called.
    pub fn leader(key: impl Into<String>) -> Place {
        Place::Key { key: key.into(), stands_for: "leader".to_owned() }
    }

    /// The hand-over key of an address, whatever it is called.
    pub fn mark(key: impl Into<String>, ip: IpAddr) -> Place {
        Place::Key { key: key.into(), stands_for: vip_key(ip) }
    }

    /// What is asked of the store.
    pub fn text(&self) -> &str {
        match self {
            Place::Below(prefix) => prefix,
            Place::Key { key, .. } => key,
        }
    }

    pub fn is_prefix(&self) -> bool {
        matches!(self, Place::Below(_))
    }

    /// What a key is called below the cluster's prefix. None: it is none of this place's.
    pub(super) fn name_of<'a>(&'a self, key: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Place::Below(prefix) => key.strip_prefix(prefix.as_bytes()),
            Place::Key { key: own, stands_for } => (own.as_bytes() == key).then_some(stands_for.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_as_it_is_written_and_a_prefix_is_closed() {
        assert_eq!(Place::below("/service/one"), Place::below("/service/one/"));
        assert_eq!(Place::below("/service/one").name_of(b"/service/one2/leader"), None);
        let key = Place::leader("service//one/leader/");
        assert_eq!(key.text(), "service//one/leader/");
        assert_eq!(key.name_of(b"service//one/leader/"), Some(b"leader".as_slice()));
        assert_eq!(key.name_of(b"service//one/leader"), None);
        assert_eq!(key.name_of(b"/service//one/leader/"), None);
        let mark = Place::mark("/v/x", "fd00::1".parse().unwrap());
        assert_eq!(mark.name_of(b"/v/x"), Some(b"pgvane/vip/fd00::1".as_slice()));
    }
}
