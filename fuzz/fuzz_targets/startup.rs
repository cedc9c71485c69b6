//! First packets and first answers: read byte by byte they mean what the whole means, and no answer
//! changes its mind.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgvane_fuzz::protocol::startup::{FirstAnswer, Parsed, first_answer, parse};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    let verdict = (0..=bytes.len()).map(|n| parse(&bytes[..n])).find(|parsed| *parsed != Parsed::Incomplete);
    assert_eq!(verdict.unwrap_or(Parsed::Incomplete), whole);
    if let Parsed::Complete { length, .. } = whole {
        assert!((1..=bytes.len()).contains(&length));
    }

    let whole = first_answer(bytes);
    for n in 0..bytes.len() {
        let part = first_answer(&bytes[..n]);
        assert!(part == FirstAnswer::Incomplete || part == whole, "{part:?} of {n} bytes, then {whole:?}");
    }
});
