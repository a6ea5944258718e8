//! The rules of the verifier, each by the message that says that it is broken.
//!
//! The list is data, `messages.txt`: it lets coverage say which rules no program breaks. A test
//! compares it with the string literals of this crate.

/// Begins the line below a message that no program brings about: the reason.
const REASON: &str = "  ! ";
/// Stands in a message for what differs.
const HOLE: &str = "{}";

/// All messages; of those of several lines, the last.
pub fn all() -> impl Iterator<Item = &'static str> {
    grouped().map(|(_, message)| message)
}

/// All messages with the file of this crate that says them.
pub fn grouped() -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut file = "";
    include_str!("messages.txt").lines().filter_map(move |line| match line.strip_prefix("# ") {
        Some(head) => {
            file = head;
            None
        }
        None => (!line.is_empty() && !line.starts_with(REASON)).then_some((file, line)),
    })
}

/// Why no program makes the verifier say a message, where that is so.
#[must_use]
pub fn unreachable(message: &str) -> Option<&'static str> {
    let mut lines = include_str!("messages.txt").lines().skip_while(|line| *line != message);
    lines.nth(1)?.strip_prefix(REASON)
}

/// The message that a line is: of all that it can be, the one with the most text of its own.
#[must_use]
pub fn of(line: &str) -> Option<&'static str> {
    let own = |m: &&str| m.len() - m.matches(HOLE).count() * HOLE.len();
    all().filter(|m| fits(line, m)).max_by_key(own)
}

/// Whether a line is a message with its holes filled.
fn fits(line: &str, message: &str) -> bool {
    let mut parts = message.split(HOLE);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_message_that_says_most() {
        assert_eq!(of("R7 !read_ok"), Some("R{} !read_ok"));
        assert_eq!(of("R1 type=scalar expected=fp"), Some("R{} type={} expected=fp"));
        assert_eq!(of("R1 type=scalar expected=ctx"), Some("R{} type={} expected={}"));
        assert_eq!(of("something else"), None);
    }

    #[test]
    fn each_message_is_its_own() {
        let wrong: Vec<_> = all().filter(|m| of(m) != Some(*m)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
