//! Damage to scenarios that keeps their form: items of lists and structures change places, are
//! gone or doubled, have another's value, or a number at an edge.

use std::ops::Range;

use bpf::insn::generate::Rng;

use super::bytes::place;
use super::words;

/// Spans of time at the edges of clocks.
#[rustfmt::skip]
const TIMES: &[&str] = &[
    "\"0ns\"", "\"1ns\"", "\"1us\"", "\"999999ns\"", "\"1ms\"", "\"4ms\"", "\"1s\"", "\"584y\"",
    "\"18446744073s\"", "\"9223372036854775807ns\"", "\"-1ns\"",
];

/// What stands between two commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// All of it, without commas.
    pub(super) range: Range<usize>,
    /// What is left of its colon; empty when it has none.
    pub(super) key: String,
    /// What is right of it.
    pub(super) value: Range<usize>,
    /// The bracket it stands in.
    group: usize,
}

/// Where a string or comment ends that begins here; its beginning when none does.
fn skip(text: &[u8], at: usize) -> usize {
    let find = |from: usize, what: &[u8]| {
        let rest = text.get(from..).unwrap_or_default();
        let found = rest.windows(what.len()).position(|w| w == what);
        found.map_or(text.len(), |n| from + n + what.len())
    };
    match &text[at..] {
        [b'/', b'/', ..] => find(at, b"\n"),
        [b'/', b'*', ..] => find(at, b"*/"),
        [b'r', b'#', b'"', ..] => find(at + 3, b"\"#"),
        [b'"', ..] => {
            let mut end = at + 1;
            while end < text.len() && text[end] != b'"' {
                end += 1 + usize::from(text[end] == b'\\');
            }
            (end + 1).min(text.len())
        }
        _ => at,
    }
}

/// The items of a text, inner ones before the item they are in.
pub(super) fn items(text: &str) -> Vec<Item> {
    let bytes = text.as_bytes();
    let (mut out, mut open, mut groups, mut at) = (Vec::new(), Vec::new(), 0, 0);
    while at < bytes.len() {
        let after = skip(bytes, at);
        if after > at {
            at = after;
            continue;
        }
        match bytes[at] {
            b'(' | b'[' | b'{' => {
                groups += 1;
                open.push((groups, at + 1, None));
            }
            b':' => open.iter_mut().last().into_iter().for_each(|o| o.2 = Some(at)),
            b',' | b')' | b']' | b'}' => {
                if let Some(o) = open.last_mut() {
                    out.extend(item(text, o.1..at, o.2, o.0));
                    (o.1, o.2) = (at + 1, None);
                }
                if bytes[at] != b',' {
                    open.pop();
                }
            }
            _ => {}
        }
        at += 1;
    }
    out
}

fn item(text: &str, range: Range<usize>, colon: Option<usize>, group: usize) -> Option<Item> {
    // Brackets and commas are bounds of characters.
    let words = &text[range.clone()];
    let (lead, rest) = (words.len() - words.trim_start().len(), words.trim().len());
    let range = range.start + lead..range.start + lead + rest;
    let colon = colon.filter(|c| range.contains(c));
    let key = colon.map_or("", |c| text[range.start..c].trim()).to_owned();
    let value = colon.map_or(range.start, |c| c + 1)..range.end;
    (rest > 0).then_some(Item { range, key, value, group })
}

/// What can be cut out without more than commas being left.
#[must_use]
pub fn pieces(text: &str) -> Vec<Range<usize>> {
    let with_comma = |i: Item| {
        let comma = text[i.range.end..].starts_with(',');
        i.range.start..i.range.end + usize::from(comma)
    };
    items(text).into_iter().rev().map(with_comma).collect()
}

/// One change.
pub fn damage(text: &mut String, rng: &mut Rng) {
    let all = items(text);
    if all.is_empty() {
        return words::damage(text, rng);
    }
    let a = &all[place(rng, all.len())];
    let other = |rng: &mut Rng, fits: &dyn Fn(&Item) -> bool| -> Option<&Item> {
        let found: Vec<&Item> = all.iter().filter(|i| *i != a && fits(i)).collect();
        (!found.is_empty()).then(|| found[place(rng, found.len())])
    };
    match rng.below(16) {
        0 | 1 => text.replace_range(a.range.clone(), ""),
        2 | 3 => text.insert_str(a.range.end, &format!(", {}", &text[a.range.clone()])),
        4 | 5 => {
            let Some(b) = other(rng, &|i| i.group == a.group) else { return };
            swap(text, &a.range, &b.range);
        }
        6..=8 => {
            let Some(b) = other(rng, &|i| i.key == a.key) else { return };
            let value = text[b.value.clone()].to_owned();
            text.replace_range(a.value.clone(), &value);
        }
        9 => {
            let Some(b) = other(rng, &|_| true) else { return };
            text.insert_str(a.range.end, &format!(", {}", &text[b.range.clone()]));
        }
        10 | 11 => {
            let is_time = |i: &Item| text[i.value.clone()].trim().ends_with("s\"");
            let Some(b) = other(rng, &is_time) else { return };
            text.replace_range(b.value.clone(), rng.pick(TIMES));
        }
        12 => words::damage(text, rng),
        _ => words::number(text, rng),
    }
}

fn swap(text: &mut String, a: &Range<usize>, b: &Range<usize>) {
    let (first, second) = if a.start < b.start { (a, b) } else { (b, a) };
    let (x, y) = (text[first.clone()].to_owned(), text[second.clone()].to_owned());
    text.replace_range(second.clone(), &x);
    text.replace_range(first.clone(), &y);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_brackets_strings_and_comments() {
        let text = "(a: [1, \"2, 3\"], /* , */ b: At(\"1us\", X(c: 4)))";
        let shown: Vec<&str> = items(text).iter().map(|i| &text[i.range.clone()]).collect();
        let want = [
            "1",
            "\"2, 3\"",
            "a: [1, \"2, 3\"]",
            "\"1us\"",
            "c: 4",
            "X(c: 4)",
            "/* , */ b: At(\"1us\", X(c: 4))",
        ];
        assert_eq!(shown, want);
        assert_eq!(items(text)[2].key, "a");
    }

    #[test]
    fn swapping_keeps_both() {
        let mut text = "[a, bcd]".to_owned();
        swap(&mut text, &(4..7), &(1..2));
        assert_eq!(text, "[bcd, a]");
    }
}
