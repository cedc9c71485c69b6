//! What is the end of an answer and what only looks like it.

use proptest::prelude::*;

use super::*;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn row(values: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut body = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        body.extend(value.as_ref().map_or(u32::MAX, |value| value.len() as u32).to_be_bytes());
        body.extend(value.iter().flatten());
    }
    message(b'D', &body)
}

fn error(fields: &str) -> Vec<u8> {
    message(b'E', fields.replace('/', "\0").as_bytes())
}

fn tail(fields: &str) -> Vec<u8> {
    fields.replace('/', "\0").into_bytes()
}

const READY_IDLE: &[u8] = b"Z\0\0\0\x05I";
/// Nothing of it is an end, and the tag's first letter follows no length.
const ROWS: &[u8] = b"D\0\0\0\x14\0\x02\0\0\0\x01Z\0\0\0\x05Ierne";
const RELATION: &[u8] = b"S\0\0\0\x17in_hot_standby\0off\0";
const NOTIFICATION: &[u8] = b"A\0\0\0\x0f\0\0\0\x4fnews\0x\0";

/// What is framed from the place on that is found, in pieces of this size.
fn found(stream: &[u8], size: usize) -> Option<(Vec<u8>, bool)> {
    let mut search = Search::default();
    for (index, piece) in stream.chunks(size).enumerate() {
        if let Some(Found { earlier, rest, behind_error }) = search.take(piece) {
            let left = &stream[stream.len().min((index + 1) * size)..];
            return Some(([&earlier, rest, left].concat(), behind_error));
        }
    }
    None
}

fn assert_found(before: &[u8], expected: Option<(Vec<u8>, bool)>) {
    let stream = [before, READY_IDLE, b"S\0\0"].concat();
    for size in [1, 2, 5, 100, TAIL_BYTES - 1, TAIL_BYTES, TAIL_BYTES + 1, 64 * 1024] {
        let shown = before.escape_ascii().to_string();
        assert_eq!(found(&stream, size), expected, "pieces of {size}: {}", &shown[shown.len().saturating_sub(200)..]);
    }
}

/// These bytes are the end of an answer from its last message on, behind rows of any length.
fn ends(last: &[u8]) {
    for rows in [1, 50, 200, 4000] {
        let expected = [last, READY_IDLE, b"S\0\0"].concat();
        assert_found(&[&ROWS.repeat(rows), last].concat(), Some((expected, false)));
    }
}

fn does_not_end(last: &[u8]) {
    assert_found(&[&ROWS.repeat(200), last].concat(), None);
}

#[test]
fn an_answer_ends_behind_its_last_message() {
    for tag in ["SELECT 1000000", "COPY 5", "DO", "SET", "START TRANSACTION", "INSERT 0 17", "BASE_BACKUP"] {
        ends(&message(b'C', format!("{tag}\0").as_bytes()));
    }
    for kind in *b"123nsI" {
        ends(&message(kind, b""));
    }
    ends(&error("SERROR/VERROR/C22012/Mdivision by zero/Fint.c/L846/Rint4div//"));
    ends(&error("SFEHLER/VERROR/C22012/Mdivision durch Null//"));
    ends(&error("SERROR/C57014/VERROR//"));
    ends(&error(&format!("SERROR/VERROR/M{}//", "x".repeat(996))));
    does_not_end(&error(&format!("SERROR/VERROR/M{}//", "x".repeat(997))));
}

#[test]
fn what_comes_at_any_time_may_stand_between() {
    let notice = message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mdone\0\0");
    let complete = message(b'C', b"SELECT 5\0");
    for between in [&notice[..], RELATION, NOTIFICATION, &[RELATION, NOTIFICATION, &notice, RELATION].concat()] {
        ends(&[&complete, between].concat());
        ends(&[&message(b's', b""), between].concat());
        ends(&[&error("SERROR/VERROR//"), between].concat());
    }
    does_not_end(&[&complete, &message(b'N', b"SNOTICE\0")[..]].concat());
    does_not_end(&[&complete, &message(b'S', b"one text\0")[..]].concat());
    does_not_end(&[&complete, &message(b'A', b"\0\0\0\x4fnews\0")[..]].concat());
    does_not_end(RELATION);
    let long = message(b'A', &[b"\0\0\0\x4fnews\0", &[b'x'; TAIL_BYTES][..], &[0]].concat());
    does_not_end(&[complete, long].concat());
}

#[test]
fn a_longer_error_ends_with_the_routine_it_arose_in() {
    let context = "PL/pgSQL function f(integer) line 3 at RAISE\n".repeat(40).replace('/', "|");
    let error = error(&format!("SERROR/VERROR/CP0001/Mno/W{context}/Fpl_exec.c/L3923/Rexec_stmt_raise//"));
    assert!(error.len() > TAIL_BYTES);
    let expected = Some(([READY_IDLE, b"S\0\0"].concat(), true));
    assert_found(&[&ROWS.repeat(100), &error[..]].concat(), expected.clone());
    // As much of it as was not spliced.
    assert_found(&error[error.len() - 400..], expected.clone());
    assert_found(&tail("L1/Rfour//"), expected);
    for last in
        ["L1/Rtri//", "L1/Rfour/", "L1/Ffour//", "Rfour//", "four//", "//", "/", &format!("/R{}//", "x".repeat(64))]
    {
        does_not_end(&tail(last));
    }
}

#[test]
fn what_only_looks_like_an_end_is_none() {
    for tag in [&b"select 5\0"[..], b"5\0", b"\0", b" SELECT\0", b"SELECT", b"SELECT\0\0", b"SEL\0ECT\0", b"SELECT-5\0"]
    {
        does_not_end(&message(b'C', tag));
    }
    does_not_end(&message(b'C', format!("{}\0", "A".repeat(64)).as_bytes()));
    does_not_end(b"C\0\0\0\x0eSELECT 5\0");
    does_not_end(b"C\0\0\x01\x0dSELECT 5\0");
    // A row of 816 MiB and 1114 columns.
    does_not_end(b"D3\0\0\0\x04");
    does_not_end(b"s\0\0\0\x05");
    does_not_end(b"T\0\0\0\x04");
    for fields in [
        "SERROR//",
        "SFATAL/VFATAL//",
        "SWARNING/VWARNING//",
        "VERROR/SERROR//",
        "SERROR/VERROR/",
        "SERROR/VERROR///",
        "SERROR/VERRORS//",
        "SERROR/MVERROR//",
    ] {
        does_not_end(&error(fields));
    }
    // The byte before is not seen.
    assert_found(&message(b'3', b""), None);
    for stream in [&b"C\0\0\0\x07DO\0Z\0\0\0\x05X"[..], b"C\0\0\0\x07DO\0Z\0\0\0\x06I", b"C\0\0\0\x07DO\0S\0\0\0\x05I"]
    {
        assert_eq!(found(stream, 64), None);
    }
}

#[test]
fn what_did_not_come_together_is_no_end() {
    let mut search = Search::default();
    assert_eq!(search.take(b"C\0\0\0\x07DO\0Z\0\0"), None);
    search.forget();
    assert_eq!(search.take(b"\0\x05I"), None);
    assert!(search.take(b"C\0\0\0\x07DO\0Z\0\0\0\x05I").is_some());
}

/// Wherever a stream is cut, either what came before tells so or the end is found in the rest alone.
#[test]
fn an_end_is_known_while_it_comes() {
    let complete = message(b'C', b"SELECT 5\0");
    let portal = [complete.clone(), message(b'3', b"")].concat();
    let late = [&complete, RELATION, NOTIFICATION].concat();
    let plain = error("SERROR/VERROR/C22012/Mno//");
    let routine = error(&format!("SERROR/VERROR/M{}/L12/Rraise//", "x".repeat(2000)));
    for last in [complete, portal, late, message(b's', b""), plain, routine] {
        let stream = [&ROWS.repeat(100), &last[..], READY_IDLE].concat();
        for cut in ROWS.len()..stream.len() {
            let mut search = Search::default();
            assert_eq!(search.take(&stream[..cut]), None);
            let amid = search.is_amid_end();
            search.forget();
            assert!(amid || search.take(&stream[cut..]).is_some(), "{}", stream[..cut].escape_ascii());
        }
    }
    // In the middle of rows it is no end that comes.
    let row = row(&[Some(b"1000017".to_vec()), None, Some(b"2024-01-01 00:00:00+00".to_vec()), Some(vec![b'x'; 80])]);
    let amid = |cut: &usize| {
        let mut search = Search::default();
        search.take(&row.repeat(9)[..*cut]).is_none() && search.is_amid_end()
    };
    let often = (3 * row.len()..4 * row.len()).filter(amid).count();
    assert!(often < row.len() / 4, "{often} of {}", row.len());
}

#[test]
fn little_is_kept() {
    let mut search = Search::default();
    for size in [1, 1000, 1023, 1024, 1025, 65536, 3] {
        assert_eq!(search.take(&vec![b'x'; size]), None);
        assert!(search.kept.len() < TAIL_BYTES && search.kept.capacity() <= 4 * TAIL_BYTES);
    }
}

/// Texts of the letters and lengths that ends are made of.
fn text() -> impl Strategy<Value = Option<Vec<u8>>> {
    let letters = prop::sample::select(b"ZC3sIETSDd VROR_\x01\x04\x05x".to_vec());
    let words = prop::sample::select(vec![
        &b"Z"[..],
        b"3",
        b"C",
        b"SELECT 5",
        b"Irene",
        b"Texas",
        b"VERROR",
        b"Rexec_stmt_raise",
        b"SERROR",
        b"I",
        b"",
    ]);
    let length = prop_oneof![0..12_usize, Just(90), Just(256), Just(0x0434), 0..300_usize];
    prop_oneof![
        1 => Just(None),
        4 => words.prop_map(|word| Some(word.to_vec())),
        4 => prop::collection::vec(letters, 0..9).prop_map(Some),
        2 => (length, 1..=u8::MAX).prop_map(|(length, byte)| Some(vec![byte; length])),
    ]
}

fn text_row() -> impl Strategy<Value = Vec<u8>> {
    let columns = prop_oneof![4 => 1..8_usize, 2 => Just(90), 1 => Just(346), 1 => Just(0x0441), 1 => Just(0x045a)];
    let row_of = |(columns, texts): (usize, Vec<Option<Vec<u8>>>)| {
        row(&texts.into_iter().cycle().take(columns).collect::<Vec<_>>())
    };
    let copied = text().prop_map(|text| message(b'd', &text.unwrap_or_default()));
    prop_oneof![4 => (columns, prop::collection::vec(text(), 1..6)).prop_map(row_of), 1 => copied]
}

fn anything() -> impl Strategy<Value = Vec<u8>> {
    let fragments = prop::sample::select(vec![
        &b"Z\0\0\0\x05I"[..],
        b"Z\0\0\0\x05",
        b"C\0\0\0\x07DO\0",
        b"s\0\0\0\x04",
        b"E\0\0\0\x13SERROR\0VERROR\0\0",
        b"N\0\0\0\x0bSWARN\0\0",
        b"\0Rroutine\0\0",
        RELATION,
        NOTIFICATION,
        ROWS,
    ]);
    let bytes = prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..20);
    let long = (0..3 * TAIL_BYTES).prop_map(|length| vec![b'x'; length]);
    let part = prop_oneof![8 => fragments.prop_map(<[u8]>::to_vec), 2 => bytes, 1 => long];
    prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn rows_of_text_are_never_taken_for_an_end(
        rows in prop::collection::vec(text_row(), 1..12),
        from in any::<prop::sample::Index>(),
        size in prop_oneof![1..200_usize, Just(64 * 1024)],
    ) {
        let rows = rows.concat();
        prop_assert_eq!(found(&rows[from.index(rows.len())..], size), None);
    }

    #[test]
    fn an_end_behind_rows_of_text_is_found(rows in prop::collection::vec(text_row(), 1..6), size in 1..3000_usize) {
        let stream = [&rows.concat(), &message(b'C', b"SELECT 5\0")[..], READY_IDLE].concat();
        let expected = [&message(b'C', b"SELECT 5\0")[..], READY_IDLE].concat();
        prop_assert_eq!(found(&stream, size), Some((expected, false)));
    }

    #[test]
    fn any_pieces_give_what_the_whole_gives(stream in anything(), size in 1..2000_usize) {
        prop_assert_eq!(found(&stream, size), found(&stream, usize::MAX));
    }
}
