//! Damage to texts: words that are gone, doubled, in the wrong place, or others.

use bpf::insn::generate::Rng;

use super::bytes::place;

/// Words of the scenario language that change the meaning of what they replace.
#[rustfmt::skip]
const WORDS: &[&str] = &[
    "(", ")", "[", "]", "{", "}", ",", ":", "\"", "_", "..", "..=", "0", "-1", "1e99", "\"$n\"",
    "18446744073709551615", "99999999999999999999", "'", "/*", "*/", "//", "r#\"", "NaN", "inf",
    "\"1us\"", "\"999999999s\"", "OneOf([])", "Not(", "Some(", "None", "Like(\"echo\")", "Rest",
    "At(\"0us\",", "Xdp(", "\u{feff}", "\u{1f980}", "#![enable(implicit_some)]", "Bad",
    "Hex(\"0\")",
];
/// Numbers at the edges of what scenarios count.
#[rustfmt::skip]
pub(super) const NUMBERS: &[&str] = &[
    "0", "1", "2", "63", "65", "255", "256", "4096", "65535", "65536", "100000", "4294967295",
    "4294967296", "9223372036854775807", "18446744073709551615",
];

/// One change, at the bounds of words.
pub fn damage(text: &mut String, rng: &mut Rng) {
    let mut words = split(text);
    if words.is_empty() {
        return;
    }
    let at = place(rng, words.len());
    match rng.below(5) {
        0 => drop(words.remove(at)),
        1 => words.insert(at, rng.pick(WORDS)),
        2 => words[at] = rng.pick(WORDS),
        3 => {
            let other = place(rng, words.len());
            words.swap(at, other);
        }
        _ => {
            let end = (at + place(rng, 40)).min(words.len());
            let piece = words[at..end].to_vec();
            words.splice(at..at, piece);
        }
    }
    *text = words.concat();
}

/// One number becomes one at an edge.
pub fn number(text: &mut String, rng: &mut Rng) {
    let mut words = split(text);
    let is_number = |w: &str| w.starts_with(|c: char| c.is_ascii_digit());
    let places: Vec<usize> = (0..words.len()).filter(|at| is_number(words[*at])).collect();
    if places.is_empty() {
        return;
    }
    let at = rng.pick(&places);
    words[at] = rng.pick(NUMBERS);
    *text = words.concat();
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
