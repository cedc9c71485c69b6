//! Which of a few words a text spells that comes byte by byte, in two bytes of memory.

/// No byte of the word has come.
const FRESH: u8 = 0;
/// It is none of the words.
const OTHER: u8 = u8::MAX;

/// One word as it passes. Its callers give the same words each time, no two of which begin alike.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spelling {
    /// One more than the index of the word that it may be, or one of the above.
    candidate: u8,
    matched: u8,
}

impl Spelling {
    pub fn take(&mut self, byte: u8, words: &[&[u8]]) {
        if self.candidate == FRESH {
            let found = words.iter().position(|word| word.first() == Some(&byte));
            self.candidate = found.map_or(OTHER, |index| index as u8 + 1);
            self.matched = 1;
        } else if self.candidate != OTHER {
            let next = words.get(usize::from(self.candidate) - 1).and_then(|word| word.get(usize::from(self.matched)));
            if next == Some(&byte) {
                self.matched += 1;
            } else {
                self.candidate = OTHER;
            }
        }
    }

    pub fn is_fresh(self) -> bool {
        self.candidate == FRESH
    }

    /// And never will be one, whatever follows.
    pub fn is_none_of_them(self) -> bool {
        self.candidate == OTHER
    }

    /// The index of the word that it spells from the first to the last letter.
    pub fn word(self, words: &[&[u8]]) -> Option<usize> {
        let index = usize::from(self.candidate.checked_sub(1)?);
        (words.get(index)?.len() == usize::from(self.matched)).then_some(index)
    }
}
