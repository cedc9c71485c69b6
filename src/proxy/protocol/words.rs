//! Errors and notices in the protocol, and which SQLSTATE a session that is cut is told.

use super::conversation::Standing;

/// The server cannot take connections now; a driver tries again or elsewhere.
pub const CANNOT_CONNECT_NOW: &str = "57P03";
/// Closed on purpose, with nothing under way.
pub const ADMIN_SHUTDOWN: &str = "57P01";
/// The connection is gone, and with it a transaction that was certainly not committed.
pub const CONNECTION_FAILURE: &str = "08006";
/// The connection is gone, and nobody knows whether the transaction was committed.
pub const TRANSACTION_RESOLUTION_UNKNOWN: &str = "08007";
/// The router's own resources are used up.
pub const TOO_MANY_CONNECTIONS: &str = "53300";
/// A protocol version nobody behind this router speaks.
pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
/// All that a client may be told.
pub const SQLSTATES: [&str; 6] = [
    CANNOT_CONNECT_NOW,
    ADMIN_SHUTDOWN,
    CONNECTION_FAILURE,
    TRANSACTION_RESOLUTION_UNKNOWN,
    TOO_MANY_CONNECTIONS,
    FEATURE_NOT_SUPPORTED,
];
const SUCCESSFUL_COMPLETION: &str = "00000";

const LENGTH_BYTES: usize = 4;

/// The SQLSTATE for a session that ends in this standing, whoever ends it:
///
/// * nothing ran yet: 57P03, so that a driver with several hosts goes to the next;
/// * idle: 57P01;
/// * in a transaction with no COMMIT or PREPARE possibly under way: 08006;
/// * else 08007, outside a transaction, too: a statement commits by itself there.
pub fn parting(standing: Standing) -> &'static str {
    match standing {
        Standing::Startup => CANNOT_CONNECT_NOW,
        Standing::Idle => ADMIN_SHUTDOWN,
        Standing::InTransaction { .. } => CONNECTION_FAILURE,
        Standing::Unknown => TRANSACTION_RESOLUTION_UNKNOWN,
    }
}

/// An ErrorResponse of severity FATAL.
pub fn fatal(sqlstate: &str, message: &str, detail: &str, hint: &str) -> Vec<u8> {
    message_of(b'E', "FATAL", sqlstate, message, detail, hint)
}

/// A NoticeResponse of severity NOTICE.
pub fn notice(message: &str, detail: &str) -> Vec<u8> {
    message_of(b'N', "NOTICE", SUCCESSFUL_COMPLETION, message, detail, "")
}

fn message_of(kind: u8, severity: &str, sqlstate: &str, message: &str, detail: &str, hint: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + message.len() + detail.len() + hint.len());
    let fields = [(b'S', severity), (b'V', severity), (b'C', sqlstate), (b'M', message), (b'D', detail), (b'H', hint)];
    for (tag, text) in fields {
        if !text.is_empty() {
            body.push(tag);
            body.extend(text.bytes().filter(|byte| *byte != 0));
            body.push(0);
        }
    }
    body.push(0);
    let length = u32::try_from(body.len() + LENGTH_BYTES).unwrap_or(u32::MAX);
    let mut packet = vec![kind];
    packet.extend(length.to_be_bytes());
    packet.extend(body);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fatal_reads_as_postgres_writes_it() {
        let expected = b"E\0\0\0\x2bSFATAL\0VFATAL\0C57P03\0Mno\0Ddetail\0Hhint\0\0";
        let mut expected = expected.to_vec();
        let length = expected.len() as u32 - 1;
        expected[1..5].copy_from_slice(&length.to_be_bytes());
        assert_eq!(fatal("57P03", "n\0o", "detail", "hint"), expected);
    }
}
