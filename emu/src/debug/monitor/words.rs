//! A command as words: values with brackets, quotes and spaces are one.

/// Splits at spaces outside of brackets and quotes.
pub(super) fn split(text: &str) -> Vec<&str> {
    let (mut words, mut from, mut depth, mut quoted, mut escaped) =
        (Vec::new(), 0, 0i32, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            c if c.is_whitespace() && !quoted && depth <= 0 => {
                words.push(&text[from..at]);
                from = at + c.len_utf8();
            }
            _ => {}
        }
    }
    words.push(&text[from..]);
    words.retain(|w| !w.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_one_word() {
        let text = r#" map  m set (a: 1, b: "x ) y") [1, 2]"#;
        assert_eq!(split(text), ["map", "m", "set", r#"(a: 1, b: "x ) y")"#, "[1, 2]"]);
        assert_eq!(split(")) a"), ["))", "a"]);
        assert_eq!(split(""), [""; 0]);
    }
}
