//! Keys: of a terminal, and of a script.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Left,
    Right,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Esc,
    Tab,
    BackTab,
    Backspace,
    Char(char),
    /// Of a script: the screen is printed.
    Show,
}

/// Names of keys in scripts.
const NAMES: &[(&str, Key)] = &[
    ("left", Key::Left),
    ("right", Key::Right),
    ("up", Key::Up),
    ("down", Key::Down),
    ("pgup", Key::PageUp),
    ("pgdn", Key::PageDown),
    ("home", Key::Home),
    ("end", Key::End),
    ("enter", Key::Enter),
    ("esc", Key::Esc),
    ("tab", Key::Tab),
    ("backtab", Key::BackTab),
    ("backspace", Key::Backspace),
    ("space", Key::Char(' ')),
    ("show", Key::Show),
];

/// Presses of one word of a script.
const TIMES_MAX: usize = 10_000;

/// A key of the terminal.
pub(super) fn of(e: &KeyEvent) -> Option<Key> {
    if e.kind == KeyEventKind::Release {
        return None;
    }
    if e.modifiers.contains(KeyModifiers::CONTROL) {
        return (e.code == KeyCode::Char('c')).then_some(Key::Char('q'));
    }
    Some(match e.code {
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Esc,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Char(c) => Key::Char(c),
        _ => return None,
    })
}

/// `right*3 m /"drop" enter show`: names, characters and quoted text.
pub(super) fn script(text: &str) -> Result<Vec<Key>, String> {
    let (mut out, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').ok_or("a quote is not closed")?;
            out.extend(quoted[..end].chars().map(Key::Char));
            rest = quoted[end + 1..].trim_start();
            continue;
        }
        let end = rest.find(|c: char| c.is_whitespace()).unwrap_or(rest.len());
        let word = &rest[..end];
        rest = rest[end..].trim_start();
        let (name, times) = match word.rsplit_once('*').filter(|(name, _)| !name.is_empty()) {
            Some((name, n)) => {
                let n = n.parse().ok().filter(|n| *n <= TIMES_MAX);
                (name, n.ok_or_else(|| format!("`{word}`: a number up to {TIMES_MAX}"))?)
            }
            None => (word, 1),
        };
        let mut chars = name.chars();
        let key = match (NAMES.iter().find(|k| k.0 == name), chars.next(), chars.next()) {
            (Some((_, key)), ..) => *key,
            (None, Some(c), None) => Key::Char(c),
            _ => return Err(format!("`{name}` is no key")),
        };
        out.extend(std::iter::repeat_n(key, times));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts() {
        let keys = script("right*2 m / \"a b\" enter *").unwrap();
        let wanted = [
            Key::Right,
            Key::Right,
            Key::Char('m'),
            Key::Char('/'),
            Key::Char('a'),
            Key::Char(' '),
            Key::Char('b'),
            Key::Enter,
            Key::Char('*'),
        ];
        assert_eq!(keys, wanted);
        assert!(script("nothing").is_err() && script("\"x").is_err() && script("up*x").is_err());
        assert_eq!(script(""), Ok(Vec::new()));
    }
}
