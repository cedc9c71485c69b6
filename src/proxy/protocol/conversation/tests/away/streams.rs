//! Sessions with a modelled server, followed by one conversation that sees every byte and by another that
//! looks away where it may.

use super::*;

/// Decides everything that is left open.
struct Dice<'a> {
    numbers: &'a [u16],
    at: usize,
}

impl Dice<'_> {
    fn roll(&mut self, below: usize) -> usize {
        let number = self.numbers[self.at % self.numbers.len()] as usize + self.at / self.numbers.len() * 7919;
        self.at += 1;
        number * 31 % below
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.roll(from.len())]
    }
}

fn bytes_of(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

const STATEMENTS: [&str; 9] = [
    "SELECT * FROM large",
    "SELECT f() FROM large",
    "SELECT * FROM large",
    "COPY large TO STDOUT",
    "INSERT INTO t VALUES (1)",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "",
];

/// What a PostgreSQL backend answers, as far as the protocol goes.
struct Server<'a, 'd> {
    dice: &'a mut Dice<'d>,
    block: u8,
    answer: Vec<u8>,
    /// The end would not be found if something came between it and an error of this length.
    after_long_error: bool,
}

impl Server<'_, '_> {
    fn says(&mut self, kind: u8, body: &[u8]) {
        match self.dice.roll(24) {
            _ if self.after_long_error => {}
            0 => self.answer.extend(bytes_of(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mthis\0Ff.c\0L1\0Rf\0\0")),
            1 => self.answer.extend(bytes_of(b'S', b"in_hot_standby\0off\0")),
            2 => self.answer.extend(bytes_of(b'A', b"\0\0\0\x4fnews\0\0")),
            _ => {}
        }
        self.answer.extend(bytes_of(kind, body));
    }

    fn row(&mut self) {
        let columns = [1, 2, 3, 5, 90][self.dice.roll(5)];
        let mut body = (columns as u16).to_be_bytes().to_vec();
        for _ in 0..columns {
            let value = self.dice.pick(&["Z", "Irene", "C", "SELECT 5", "3", "s", "", "Texas", "VERROR", "Rroutine"]);
            let value = value.repeat([1, 1, 1, 40][self.dice.roll(4)]);
            body.extend((value.len() as u32).to_be_bytes());
            body.extend(value.as_bytes());
        }
        self.says(b'D', &body);
    }

    fn fails(&mut self) {
        let context = "PL/pgSQL function f() line 3 at RAISE\n".repeat([0, 1, 20, 60][self.dice.roll(4)]);
        let error = format!("SERROR\0VERROR\0CP0001\0Mno\0W{context}\0Fpl_exec.c\0L3923\0Rexec_stmt_raise\0\0");
        self.says(b'E', error.as_bytes());
        self.after_long_error = error.len() > TAIL_BYTES / 2;
        self.block = if self.block == b'I' { b'I' } else { b'E' };
    }

    /// False when it failed.
    fn runs(&mut self, statement: &str, by_batch: bool) -> bool {
        let ends = matches!(statement, "COMMIT" | "ROLLBACK");
        if self.block == b'E' && !ends && !statement.is_empty() {
            self.fails();
            return false;
        }
        match statement {
            "" => self.says(b'I', b""),
            "COPY large TO STDOUT" => {
                self.says(b'H', b"\0\0\x01\0\0");
                (0..self.dice.roll(40)).for_each(|_| self.says(b'd', b"Zoe\tIrene\tC\n"));
                self.says(b'c', b"");
                self.says(b'C', b"COPY 40\0");
            }
            "SELECT * FROM large" | "SELECT f() FROM large" => {
                if !by_batch {
                    self.says(b'T', b"\0\x01C\0\0\0\x40\x01\0\x01\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
                }
                (0..self.dice.roll(30)).for_each(|_| self.row());
                if statement == "SELECT f() FROM large" {
                    self.fails();
                    return false;
                }
                match by_batch && self.dice.roll(3) == 0 {
                    true => self.says(b's', b""),
                    false => self.says(b'C', b"SELECT 30\0"),
                }
            }
            _ => {
                self.block = if ends {
                    b'I'
                } else if statement == "BEGIN" {
                    b'T'
                } else {
                    self.block
                };
                self.says(b'C', format!("{}\0", &statement[..5]).as_bytes());
            }
        }
        true
    }

    /// What the client sends next, and its whole answer.
    fn turn(&mut self) -> (Vec<u8>, Vec<u8>) {
        let number = 1 + self.dice.roll(3);
        let statements: Vec<&str> = (0..number).map(|_| self.dice.pick(&STATEMENTS)).collect();
        let asked = if self.dice.roll(2) == 0 { self.query(&statements) } else { self.batch(&statements) };
        self.says(b'Z', &[self.block]);
        self.after_long_error = false;
        if self.dice.roll(4) == 0 {
            self.answer.extend(bytes_of(b'A', b"\0\0\0\x4fnews\0behind the end\0"));
        }
        (asked, std::mem::take(&mut self.answer))
    }

    fn query(&mut self, statements: &[&str]) -> Vec<u8> {
        let given: Vec<&str> = statements.iter().copied().filter(|text| !text.is_empty()).collect();
        if given.is_empty() {
            self.runs("", false);
        }
        let _ = given.iter().all(|statement| self.runs(statement, false));
        message(&format!("Q {}", statements.join(";")))
    }

    fn batch(&mut self, statements: &[&str]) -> Vec<u8> {
        let (mut asked, mut goes_on) = (Vec::new(), true);
        for statement in statements {
            let closes = self.dice.roll(3) == 0;
            for line in [&format!("P /{statement}"), "B /", "E"] {
                asked.extend(message(line));
            }
            if closes {
                asked.extend(message("C P"));
            }
            goes_on = goes_on && {
                self.says(b'1', b"");
                self.says(b'2', b"");
                self.runs(statement, true)
            };
            if goes_on && closes {
                self.says(b'3', b"");
            }
        }
        asked.extend(message("S"));
        asked
    }
}

fn is_never_better(away: &Conversation, whole: &Conversation) -> bool {
    let busy = Standing::InTransaction { busy: true };
    let standing = match away.standing() {
        Standing::Unknown => true,
        standing if standing == busy => matches!(whole.standing(), Standing::InTransaction { .. }),
        standing => standing == whole.standing(),
    };
    standing
        && (!away.is_idle() || whole.is_idle())
        && (away.hearing() == Hearing::Torn || away.hearing() == whole.hearing())
}

/// What the server sends up to a pause. Gives how much of it passed unseen.
fn passes(away: &mut Conversation, dice: &mut Dice, mut burst: &[u8]) -> usize {
    let mut unseen = 0;
    while !burst.is_empty() {
        if dice.roll(2) == 0 && away.may_look_away() {
            away.look_away();
            let gone = dice.roll(burst.len().saturating_sub(TAIL_BYTES) + 1);
            unseen += gone;
            burst = &burst[gone..];
        }
        let (piece, rest) = burst.split_at(1 + dice.roll(burst.len()));
        away.sent_to_client(piece);
        burst = rest;
    }
    unseen
}

/// Six turns, the next of which may begin before the last one's answer is over. Gives the bytes that passed
/// unseen.
fn session(numbers: &[u16], pipelines: bool) -> usize {
    let mut dice = Dice { numbers, at: 0 };
    let (mut whole, mut away, mut unseen) = (admitted(), admitted(), 0);
    let mut server = Server { dice: &mut dice, block: b'I', answer: Vec::new(), after_long_error: false };
    let turns: Vec<_> = (0..6).map(|_| server.turn()).collect();
    let (mut turns, mut coming) = (turns.into_iter(), Vec::new());
    loop {
        let sends = coming.is_empty() || (pipelines && dice.roll(3) == 0);
        if let Some((asked, answer)) = sends.then(|| turns.next()).flatten() {
            whole.sent_to_server(&asked);
            away.sent_to_server(&asked);
            coming.extend(answer);
        } else if coming.is_empty() {
            return unseen;
        }
        let burst: Vec<u8> = coming.drain(..1 + dice.roll(coming.len())).collect();
        whole.sent_to_client(&burst);
        unseen += passes(&mut away, &mut dice, &burst);
        assert!(is_never_better(&away, &whole), "{:?}, and it is {:?}", away.standing(), whole.standing());
        if coming.is_empty() {
            assert_eq!(away.standing(), whole.standing());
            assert_eq!((away.hearing(), away.is_idle()), (whole.hearing(), whole.is_idle()));
        }
    }
}

proptest! {
    #[test]
    fn it_is_never_better_and_in_the_end_the_same(numbers in prop::collection::vec(any::<u16>(), 1..300), pipelines: bool) {
        session(&numbers, pipelines);
    }
}

#[test]
fn most_of_what_it_may_look_away_from_does_pass_unseen() {
    let numbers: Vec<u16> = (0..5000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u16).collect();
    let unseen: usize = (0..50).map(|from| session(&numbers[from * 97..], from % 2 == 0)).sum();
    assert!(unseen > 100_000, "{unseen}");
}
