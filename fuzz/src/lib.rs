//! What the fuzz targets share: the protocol's room of pgvane, and models to hold it against.

#[path = "../../src/proxy/protocol/mod.rs"]
pub mod protocol;

pub mod count;
pub mod server;

/// One message: its type, its length, its body.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u32 + 4;
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// Bytes in pieces of 1 to `limit`, the same for the same seed.
pub fn pieces(mut bytes: &[u8], seed: u32, limit: usize) -> Vec<&[u8]> {
    let (mut pieces, mut state) = (Vec::new(), seed);
    while !bytes.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let size = 1 + (state >> 16) as usize % limit;
        let (piece, rest) = bytes.split_at(size.min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
