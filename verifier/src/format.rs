//! Format strings of `bpf_snprintf` and its kin, a character at a time: what the verifier checks
//! and what the modelled kernel prints are read by the same rules (KERNEL v6.18
//! helpers.c:bpf_bprintf_prepare).

/// `isspace`.
#[must_use]
pub const fn is_space(b: u8) -> bool {
    matches!(b, 9..=13 | 32)
}

/// What is left of a format.
#[derive(Clone, Copy, Debug)]
pub struct Fmt<'a>(pub &'a [u8]);

impl Fmt<'_> {
    /// The next character, 0 at the end.
    #[must_use]
    pub fn peek(&self) -> u8 {
        self.0.first().copied().unwrap_or(0)
    }

    /// Takes a character, 0 at the end.
    pub fn take(&mut self) -> u8 {
        let b = self.peek();
        self.0 = self.0.get(1..).unwrap_or_default();
        b
    }

    /// Takes this character, when it is the next.
    pub fn eat(&mut self, b: u8) -> bool {
        let hit = self.peek() == b && b != 0;
        if hit {
            self.take();
        }
        hit
    }

    /// Nothing, white space or punctuation follows.
    #[must_use]
    pub fn at_word_end(&self) -> bool {
        let b = self.peek();
        b == 0 || is_space(b) || b.is_ascii_punctuation()
    }
}
