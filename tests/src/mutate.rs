//! Damage done to good input, from a seed: what files from strangers look like at their worst.

/// A stream of numbers from a seed (xorshift64*): the same on every machine.
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Numbers {
        // The state is never zero.
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below a bound, 0 when the bound is 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.draw() >> 11) as usize % n.max(1)
    }

    /// One of a list.
    pub fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// Numbers at the edges of fields.
const EDGES: &[u32] = &[
    0,
    1,
    2,
    7,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x10000,
    0x00ff_ffff,
    0x0100_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
];

/// First bytes of BTF and BTF.ext in both byte orders, where damage tells most.
const MAGICS: &[[u8; 3]] = &[[0x9f, 0xeb, 1], [0xeb, 0x9f, 1]];

/// Places where a table begins that other bytes refer into.
fn landmarks(bytes: &[u8]) -> Vec<usize> {
    let found = bytes.windows(3).enumerate().filter(|(_, w)| MAGICS.iter().any(|m| m == w));
    found.map(|(at, _)| at).chain([0]).collect()
}

/// One input, damaged in up to eight ways.
#[must_use]
pub fn bytes(good: &[u8], n: &mut Numbers) -> Vec<u8> {
    let mut out = good.to_vec();
    let marks = landmarks(good);
    for _ in 0..n.below(8) + 1 {
        if out.is_empty() {
            break;
        }
        let at = if n.below(3) == 0 {
            (n.of(&marks) + n.below(96)).min(out.len() - 1)
        } else {
            n.below(out.len())
        };
        damage(&mut out, at, n);
    }
    out
}

fn damage(out: &mut Vec<u8>, at: usize, n: &mut Numbers) {
    match n.below(9) {
        0 => out.truncate(at),
        1 => out[at] ^= 1 << n.below(8),
        2 => out[at] = n.draw() as u8,
        3 | 4 => {
            let (at, edge) = (at & !3, n.of(EDGES));
            let word = if n.below(2) == 0 { edge.to_le_bytes() } else { edge.to_be_bytes() };
            let end = (at + 4).min(out.len());
            out[at..end].copy_from_slice(&word[..end - at]);
        }
        5 => {
            let end = (at + n.below(64)).min(out.len());
            out.drain(at..end);
        }
        6 => {
            let from = n.below(out.len());
            let piece = out[from..(from + n.below(64)).min(out.len())].to_vec();
            out.splice(at..at, piece);
        }
        7 => {
            let end = (at + n.below(32)).min(out.len());
            out[at..end].fill(n.draw() as u8);
        }
        _ => {
            let other = n.below(out.len());
            out.swap(at, other);
        }
    }
}

/// Bytes of no format, behind a good beginning or not.
#[must_use]
pub fn noise(good: &[u8], n: &mut Numbers) -> Vec<u8> {
    let head = [0, 4, 16, 64][n.below(4)].min(good.len());
    let tail = n.below(4096);
    let mut out = good[..head].to_vec();
    out.extend((0..tail).map(|_| n.draw() as u8));
    out
}

/// Words of the scenario language that change the meaning of what they replace.
const WORDS: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "\"",
    "_",
    "..",
    "..=",
    "0",
    "-1",
    "1e99",
    "\"$n\"",
    "18446744073709551615",
    "99999999999999999999",
    "'",
    "/*",
    "*/",
    "//",
    "r#\"",
    "NaN",
    "inf",
    "\"1us\"",
    "\"999999999s\"",
    "OneOf([])",
    "Not(",
    "Some(",
    "None",
    "Like(\"echo\")",
    "Rest",
    "At(\"0us\",",
    "Xdp(",
    "\u{feff}",
    "\u{1f980}",
    "#![enable(implicit_some)]",
    "Bad",
    "Hex(\"0\")",
];

/// A text, damaged in up to six places, at the bounds of its words.
#[must_use]
pub fn text(good: &str, n: &mut Numbers) -> String {
    let mut words = split(good);
    for _ in 0..n.below(6) + 1 {
        if words.is_empty() {
            break;
        }
        let at = n.below(words.len());
        match n.below(5) {
            0 => drop(words.remove(at)),
            1 => words.insert(at, n.of(WORDS)),
            2 => words[at] = n.of(WORDS),
            3 => {
                let other = n.below(words.len());
                words.swap(at, other);
            }
            _ => {
                let end = (at + n.below(40)).min(words.len());
                let piece = words[at..end].to_vec();
                words.splice(at..at, piece);
            }
        }
    }
    words.concat()
}

/// A text with some of its numbers replaced by numbers at the edges.
#[must_use]
pub fn numbers(good: &str, n: &mut Numbers) -> String {
    const BIG: &[&str] = &[
        "0",
        "1",
        "2",
        "63",
        "65",
        "255",
        "256",
        "4096",
        "65535",
        "65536",
        "100000",
        "4294967295",
        "4294967296",
        "18446744073709551615",
    ];
    let mut words = split(good);
    let is_number = |w: &&str| w.starts_with(|c: char| c.is_ascii_digit());
    let places: Vec<usize> =
        words.iter().enumerate().filter(|(_, w)| is_number(w)).map(|(at, _)| at).collect();
    for _ in 0..n.below(3) + 1 {
        let at = n.of(&places);
        words[at] = n.of(BIG);
    }
    words.concat()
}

/// Runs of letters and digits, and single other characters.
fn split(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_alphanumeric() == first.is_alphanumeric();
        let len = if first.is_alphanumeric() {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (head, tail) = rest.split_at(len);
        out.push(head);
        rest = tail;
    }
    out
}
