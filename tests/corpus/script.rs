//! Conversations as text: one step a line, several conversations a file, each under a line `== name`.
//!
//! A line begins with the session it is about (`b: query SELECT 1`); without one it is session `a`.
//! What is sent collects until the next line that waits, and goes in one piece. `-` is an unnamed
//! statement or portal. In texts `\n`, `\t`, `\\` and `\x1f` mean what they do elsewhere, and `{x*1000}`
//! is a thousand x. `repeat N` and `again` enclose lines that come N times.
//!
//! | line | meaning |
//! |---|---|
//! | `start user=u version=3.2 ...` | StartupMessage; user and database are `corpus` where not given |
//! | `ssl`, `gssenc` | the request, and its answer of one byte |
//! | `query`, `parse`, `bind`, `execute`, `describe`, `close`, `flush`, `sync`, `call` | the messages |
//! | `copydata`, `copydone`, `copyfail`, `password`, `sasl`, `terminate` | the messages |
//! | `binary` | as `bind`, with results in binary |
//! | `send X text` | any message of type X; `hex 51 00` is sent as it is |
//! | `wait Z text` | for the next message of this type that holds this text; `wait Z*3` for three |
//! | `sleeping` | until this session's server sleeps in `pg_sleep`; `locked`: waits for a lock |
//! | `cancel` | a CancelRequest with this session's key, on a connection of its own, to its end |
//! | `shut` | the client sends nothing any more and still reads |
//! | `end` | until the server has closed |
//! | `leave` | goes; nothing after the last message that was waited for counts |
//! | `spoken 08007` | this server closes without a word, and the router says so with this SQLSTATE |
//! | `lsn` | values in the rows of this conversation that are positions in the WAL do not count |
//!
//! Sessions that are still there at the end say Terminate and wait for the end.

use super::wire;

#[derive(Debug, Clone)]
pub struct Conversation {
    pub name: String,
    pub steps: Vec<Step>,
    pub masks_lsn: bool,
    /// What the router says in its server's place, as the last word of every session.
    pub spoken: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Step {
    pub session: String,
    pub act: Act,
    /// In the file, for messages.
    pub line: usize,
}

#[derive(Debug, Clone)]
pub enum Act {
    Send(Vec<u8>),
    /// Sent, and answered by one byte.
    Ask(Vec<u8>),
    Wait {
        kind: u8,
        count: usize,
        text: String,
    },
    Sleeping,
    Locked,
    Cancel,
    Shut,
    End,
    Leave,
}

/// Every conversation of a file.
pub fn read(text: &str) -> Vec<Conversation> {
    let mut found: Vec<Conversation> = Vec::new();
    let mut repeated: Option<(usize, usize)> = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            found.push(Conversation { name: name.to_owned(), steps: Vec::new(), masks_lsn: false, spoken: None });
            continue;
        }
        let Some(current) = found.last_mut() else { panic!("line {}: before the first ==", index + 1) };
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "lsn" => current.masks_lsn = true,
            "spoken" => current.spoken = Some(rest.to_owned()),
            "repeat" => repeated = Some((rest.parse().expect("repeat N"), current.steps.len())),
            "again" => {
                let (times, from) = repeated.take().expect("again ends a repeat");
                let once = current.steps[from..].to_vec();
                (1..times).for_each(|_| current.steps.extend_from_slice(&once));
            }
            _ => current.steps.push(step(line, index + 1)),
        }
    }
    found
}

fn step(line: &str, number: usize) -> Step {
    let (session, line) = match line.split_once(": ") {
        Some((session, rest)) if session.chars().all(char::is_alphanumeric) => (session, rest),
        _ => ("a", line),
    };
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let act = act(verb, rest).unwrap_or_else(|| panic!("line {number}: no such step: {line}"));
    Step { session: session.to_owned(), act, line: number }
}

fn act(verb: &str, rest: &str) -> Option<Act> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let name = |index: usize| words.get(index).map_or("", |name| if *name == "-" { "" } else { *name });
    let kind = || name(0).bytes().next();
    let send = match verb {
        "start" => wire::startup(rest),
        "hex" => words.iter().map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect(),
        "query" => wire::message(b'Q', &[&text(rest), b"\0"]),
        "parse" => {
            let (_, sql) = rest.split_once(' ').unwrap_or((rest, ""));
            wire::message(b'P', &[name(0).as_bytes(), b"\0", &text(sql), b"\0\0\0"])
        }
        "bind" => wire::bind(name(0), name(1), &values(&words[2..]), 0),
        "binary" => wire::bind(name(0), name(1), &values(&words[2..]), 1),
        "describe" => wire::message(b'D', &[&[kind()?], name(1).as_bytes(), b"\0"]),
        "close" => wire::message(b'C', &[&[kind()?], name(1).as_bytes(), b"\0"]),
        "execute" => {
            let rows: u32 = words.get(1).map_or(Some(0), |rows| rows.parse().ok())?;
            wire::message(b'E', &[name(0).as_bytes(), b"\0", &rows.to_be_bytes()])
        }
        "flush" => wire::message(b'H', &[]),
        "sync" => wire::message(b'S', &[]),
        "call" => wire::call(words.first()?.parse().ok()?, &values(&words[1..])),
        "copydata" => wire::message(b'd', &[&text(rest)]),
        "copydone" => wire::message(b'c', &[]),
        "copyfail" => wire::message(b'f', &[&text(rest), b"\0"]),
        "password" => wire::message(b'p', &[&text(rest), b"\0"]),
        "sasl" => wire::message(b'p', &[&text(rest)]),
        "terminate" => wire::message(b'X', &[]),
        "send" => wire::message(kind()?, &[&text(rest.get(2..).unwrap_or(""))]),
        _ => return waiting(verb, rest, &words),
    };
    Some(Act::Send(send))
}

fn waiting(verb: &str, rest: &str, words: &[&str]) -> Option<Act> {
    Some(match verb {
        "ssl" => Act::Ask(wire::request(5679)),
        "gssenc" => Act::Ask(wire::request(5680)),
        "wait" => {
            let first = words.first()?;
            let (kind, count) = first.split_once('*').map_or((*first, Some(1)), |(k, n)| (k, n.parse().ok()));
            let text = rest.get(first.len() + 1..).unwrap_or("").to_owned();
            Act::Wait { kind: kind.bytes().next()?, count: count?, text }
        }
        "sleeping" => Act::Sleeping,
        "locked" => Act::Locked,
        "cancel" => Act::Cancel,
        "shut" => Act::Shut,
        "end" => Act::End,
        "leave" => Act::Leave,
        _ => return None,
    })
}

fn values(words: &[&str]) -> Vec<Option<Vec<u8>>> {
    words.iter().map(|word| (*word != "NULL").then(|| text(word))).collect()
}

/// With what `\` and `{x*N}` mean.
fn text(written: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = written;
    while let Some(next) = rest.chars().next() {
        let repeat = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')).and_then(|(inner, after)| {
            let (what, times) = inner.rsplit_once('*')?;
            Some((text(what).repeat(times.parse().ok()?), after))
        });
        if let Some((many, after)) = repeat {
            out.extend(many);
            rest = after;
        } else if let Some(escaped) = rest.strip_prefix('\\') {
            let (byte, length) = escape(escaped);
            out.push(byte);
            rest = &escaped[length..];
        } else {
            out.extend(next.to_string().bytes());
            rest = &rest[next.len_utf8()..];
        }
    }
    out
}

/// The byte, and how many characters name it.
fn escape(after: &str) -> (u8, usize) {
    match after.bytes().next() {
        Some(b'n') => (b'\n', 1),
        Some(b't') => (b'\t', 1),
        Some(b'\\') => (b'\\', 1),
        Some(b'x') => (u8::from_str_radix(&after[1..3], 16).expect("two hexadecimal digits"), 3),
        _ => panic!("no such escape: \\{after}"),
    }
}
