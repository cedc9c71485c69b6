//! Who gave out which key for cancels, for as long as the key's session lives.
//!
//! No key is kept: an entry is a keyed hash of it, so the memory of a router gives away nobody's right to
//! cancel, and a long key costs no more than a short one. Two keys with one hash are two owners of it,
//! and a server ignores a key that is not its own.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::model::HostPort;

/// The keys of one cluster, over all its services. There are never more than sessions: a key leaves with
/// its session's [`KeyGuard`].
///
/// Memory: 19 to 39 bytes for each key here (16 and one of the table's own, at 7/16 to 7/8 full), and 16 in
/// its session.
#[derive(Debug, Default)]
pub struct Keys {
    hasher: RandomState,
    /// One per address with sessions, which are few: members, times the ports that services use.
    owners: RwLock<Vec<Arc<Owner>>>,
}

/// A server that gives out keys. Its lock is held for one entry; when the table grows, for the time of moving
/// it (100,000 keys: some milliseconds, once).
#[derive(Debug)]
struct Owner {
    address: HostPort,
    hasher: RandomState,
    /// Hashes of keys, and how many sessions have them: one, as long as the server is honest.
    keys: Mutex<HashMap<u64, u32, BuildHasherDefault<Hashed>>>,
}

/// What is hashed with a secret already: nobody outside can choose it.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }
}

impl Keys {
    /// The server at `address`, to be asked for once by all of its sessions.
    pub fn issuer(&self, address: &HostPort) -> Issuer {
        Issuer(self.owner(address))
    }

    /// Where the key was given out: nobody for one that is not known, and all where several servers gave
    /// out the same (a secret may have no more than 32 bits).
    pub fn owners(&self, key: &[u8]) -> Vec<HostPort> {
        let hash = self.hasher.hash_one(key);
        let owners = self.owners.read();
        owners.iter().filter(|owner| owner.keys.lock().contains_key(&hash)).map(|o| o.address.clone()).collect()
    }

    /// Keys that are known now.
    pub fn known(&self) -> usize {
        self.owners.read().iter().map(|owner| owner.keys.lock().len()).sum()
    }

    fn owner(&self, address: &HostPort) -> Arc<Owner> {
        let find = |owners: &[Arc<Owner>]| owners.iter().find(|owner| owner.address == *address).cloned();
        if let Some(owner) = find(&self.owners.read()) {
            return owner;
        }
        let mut owners = self.owners.write();
        // Another session may have come first.
        find(&owners).unwrap_or_else(|| {
            // Addresses come and go over the years; one with sessions is held by their guards.
            owners.retain(|owner| Arc::strong_count(owner) > 1);
            let (address, hasher) = (address.clone(), self.hasher.clone());
            let owner = Arc::new(Owner { address, hasher, keys: Mutex::default() });
            owners.push(owner.clone());
            owner
        })
    }
}

/// A server that gives out keys; cheap to clone.
#[derive(Debug, Clone)]
pub struct Issuer(Arc<Owner>);

impl Issuer {
    /// It gave out `key`: process id and secret, in PostgreSQL's bytes.
    pub fn register(&self, key: &[u8]) -> KeyGuard {
        let (owner, hash) = (self.0.clone(), self.0.hasher.hash_one(key));
        *owner.keys.lock().entry(hash).or_default() += 1;
        KeyGuard { owner, hash }
    }
}

/// The right of one session to its key. Its drop forgets the key.
#[derive(Debug)]
pub struct KeyGuard {
    owner: Arc<Owner>,
    hash: u64,
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let mut keys = self.owner.keys.lock();
        if let Some(sessions) = keys.get_mut(&self.hash) {
            *sessions -= 1;
            if *sessions == 0 {
                keys.remove(&self.hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(number: u16) -> HostPort {
        HostPort::new("10.0.0.1", number)
    }

    #[test]
    fn a_key_is_known_while_its_session_lives() {
        let keys = Keys::default();
        let (short, long) = ([7; 8], [7; 4 + 256]);
        let first = keys.issuer(&at(1)).register(&short);
        let second = keys.issuer(&at(2)).register(&long);
        assert_eq!((keys.owners(&short), keys.owners(&long)), (vec![at(1)], vec![at(2)]));
        assert_eq!(keys.owners(&[7; 9]), []);
        drop(first);
        assert_eq!((keys.owners(&short), keys.known()), (vec![], 1));
        drop(second);
        assert_eq!((keys.owners(&long), keys.known()), (vec![], 0));
    }

    #[test]
    fn servers_that_come_and_go_for_years_do_not_pile_up() {
        let keys = Keys::default();
        let kept = keys.issuer(&at(1)).register(&[1; 8]);
        (2..100).for_each(|number| drop(keys.issuer(&at(number)).register(&[2; 8])));
        assert_eq!(keys.owners.read().len(), 2);
        assert_eq!(keys.owners(&[1; 8]), [at(1)]);
        drop(kept);
    }

    #[test]
    fn an_entry_is_as_small_as_said() {
        assert_eq!((size_of::<(u64, u32)>(), size_of::<Option<KeyGuard>>()), (16, 16));
    }

    proptest! {
        /// Against a plain list of who has what.
        #[test]
        fn owners_are_those_with_a_living_session(
            steps in prop::collection::vec((any::<bool>(), 0..4u8, 1..4u16, any::<prop::sample::Index>()), 0..60)
        ) {
            let (keys, mut alive) = (Keys::default(), Vec::new());
            for (comes, key, port, which) in steps {
                if comes || alive.is_empty() {
                    alive.push((key, at(port), keys.issuer(&at(port)).register(&[key; 8])));
                } else {
                    alive.swap_remove(which.index(alive.len()));
                }
                for key in 0..4 {
                    let mut wanted: Vec<_> = alive.iter().filter(|(k, ..)| *k == key).map(|(_, at, _)| at.clone()).collect();
                    let mut known = keys.owners(&[key; 8]);
                    wanted.sort();
                    wanted.dedup();
                    known.sort();
                    prop_assert_eq!(known, wanted);
                }
            }
        }
    }
}
