//! A spanned syntax tree of RON: what typed values and patterns are read from, and what words the
//! errors when `ron` refuses a file.

use crate::span::{Finding, Span};

/// Nesting that `ron` allows by default; files come from strangers.
const DEPTH_MAX: u32 = 64;

/// One value with its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Place of the whole value.
    pub span: Span,
    /// What it is.
    pub kind: Kind,
}

/// A named member of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Field name.
    pub name: String,
    /// Place of the name.
    pub name_span: Span,
    /// Value.
    pub value: Node,
}

/// The forms of RON, plus ranges.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Integer; the sign is kept apart so that all of u64 and i64 fit.
    Int {
        /// Written with a minus.
        negative: bool,
        /// Magnitude.
        value: u64,
    },
    /// Floating point.
    Float(f64),
    /// Text.
    Str(String),
    /// `true` or `false`.
    Bool(bool),
    /// A bare name: unit variant, constant, `_`.
    Name(String),
    /// `Name(...)` with positional arguments.
    Call(String, Vec<Node>),
    /// `Name(a: 1)` or `(a: 1)`.
    Record(Option<String>, Vec<Member>),
    /// `(1, 2)` or `()`.
    Tuple(Vec<Node>),
    /// `[1, 2]`.
    List(Vec<Node>),
    /// `{k: v}`.
    Map(Vec<(Node, Node)>),
    /// `a..b`, `a..=b`, `a..`, `..=b`.
    Range {
        /// Lower bound.
        from: Option<Box<Node>>,
        /// Upper bound.
        to: Option<Box<Node>>,
        /// `..=`.
        inclusive: bool,
    },
}

impl Node {
    /// The text of a text node.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Kind::Str(s) = &self.kind { Some(s) } else { None }
    }

    /// What the node is, for messages: "the text \"x\"", "the number 5".
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Int { negative, value } => {
                format!("{}{value}", if *negative { "-" } else { "" })
            }
            Kind::Float(f) => format!("{f}"),
            Kind::Str(s) => format!("the text {s:?}"),
            Kind::Bool(b) => format!("{b}"),
            Kind::Name(n) => format!("the name {n}"),
            Kind::Call(n, _) | Kind::Record(Some(n), _) => format!("{n}(..)"),
            Kind::Record(None, _) => "a record".to_string(),
            Kind::Tuple(_) => "a tuple".to_string(),
            Kind::List(_) => "a list".to_string(),
            Kind::Map(_) => "a map".to_string(),
            Kind::Range { .. } => "a range".to_string(),
        }
    }

    /// Gives the node and all below it one place: a substituted variable stands at its `"$n"`.
    pub fn move_to(&mut self, span: Span) {
        self.span = span;
        match &mut self.kind {
            Kind::Call(_, items) | Kind::Tuple(items) | Kind::List(items) => {
                items.iter_mut().for_each(|n| n.move_to(span));
            }
            Kind::Record(_, members) => members.iter_mut().for_each(|m| {
                m.name_span = span;
                m.value.move_to(span);
            }),
            Kind::Map(entries) => entries.iter_mut().for_each(|(k, v)| {
                k.move_to(span);
                v.move_to(span);
            }),
            Kind::Range { from, to, .. } => {
                from.iter_mut().chain(to).for_each(|n| n.move_to(span));
            }
            Kind::Int { .. } | Kind::Float(_) | Kind::Str(_) | Kind::Bool(_) | Kind::Name(_) => {}
        }
    }
}

/// Reads one value that may be surrounded by comments; `at` is the offset of `text` in its file.
///
/// # Errors
/// The first thing that is not RON, in words for people.
pub fn parse_value(text: &str, file: u16, at: u32) -> Result<Node, Finding> {
    let mut p = Parser { text, pos: 0, file, base: at, depth: 0 };
    p.skip()?;
    let node = p.value()?;
    p.skip()?;
    if p.pos < text.len() {
        return Err(p.error_here("this does not belong after the value"));
    }
    Ok(node)
}

/// Reads a whole file: an optional BOM, attributes, one value.
///
/// # Errors
/// As [`parse_value`].
pub fn parse_file(text: &str, file: u16) -> Result<Node, Finding> {
    let mut p = Parser { text, pos: 0, file, base: 0, depth: 0 };
    p.skip()?;
    while p.rest().starts_with("#!") {
        let end = p.rest().find(']').map_or(text.len(), |n| p.pos + n + 1);
        p.pos = end;
        p.skip()?;
    }
    let node = p.value()?;
    p.skip()?;
    if p.pos < text.len() {
        return Err(p.error_here("this does not belong after the scenario"));
    }
    Ok(node)
}

struct Parser<'a> {
    text: &'a str,
    pos: usize,
    file: u16,
    base: u32,
    depth: u32,
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.pos..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn span(&self, start: usize, end: usize) -> Span {
        let at = |n: usize| self.base + u32::try_from(n).unwrap_or(u32::MAX / 2);
        Span { file: self.file, start: at(start), end: at(end) }
    }

    fn error_here(&self, message: impl Into<String>) -> Finding {
        let width = self.peek().map_or(0, char::len_utf8);
        Finding::error(self.span(self.pos, self.pos + width), message)
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.pos += token.len();
        }
        found
    }

    fn skip(&mut self) -> Result<(), Finding> {
        loop {
            let rest = self.rest();
            let blank =
                rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{feff}']).len();
            self.pos += blank;
            if self.rest().starts_with("//") {
                self.pos += self.rest().find('\n').unwrap_or(self.rest().len());
            } else if self.rest().starts_with("/*") {
                self.block_comment()?;
            } else if blank == 0 {
                return Ok(());
            }
        }
    }

    fn block_comment(&mut self) -> Result<(), Finding> {
        let (start, mut depth) = (self.pos, 0u32);
        loop {
            if self.take("/*") {
                depth += 1;
            } else if self.take("*/") {
                depth -= 1;
                if depth == 0 {
                    return Ok(());
                }
            } else if let Some(c) = self.peek() {
                self.pos += c.len_utf8();
            } else {
                let at = self.span(start, start + 2);
                return Err(Finding::error(at, "this comment is not closed"));
            }
        }
    }

    fn value(&mut self) -> Result<Node, Finding> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error_here(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let start = self.pos;
        let first = if self.rest().starts_with("..") { None } else { Some(self.single()?) };
        let node = self.range(start, first)?;
        self.depth -= 1;
        Ok(node)
    }

    fn range(&mut self, start: usize, from: Option<Node>) -> Result<Node, Finding> {
        let inclusive = self.rest().starts_with("..=");
        if !inclusive && !self.rest().starts_with("..") {
            return from.ok_or_else(|| self.error_here("a value is missing here"));
        }
        self.pos += if inclusive { 3 } else { 2 };
        let bound = self.peek().is_some_and(|c| c.is_ascii_digit() || "+-'\"".contains(c));
        let to = if bound { Some(Box::new(self.single()?)) } else { None };
        if inclusive && to.is_none() {
            return Err(self.error_here("`..=` needs an upper bound"));
        }
        let span = self.span(start, self.pos);
        Ok(Node { span, kind: Kind::Range { from: from.map(Box::new), to, inclusive } })
    }

    fn single(&mut self) -> Result<Node, Finding> {
        let start = self.pos;
        let kind = match self.peek() {
            Some('"') => Kind::Str(self.text_literal()?),
            Some('r') if self.is_raw_text() => Kind::Str(self.raw_text()?),
            Some('[') => Kind::List(self.items('[', ']')?),
            Some('{') => Kind::Map(self.entries()?),
            Some('(') => self.group(None)?,
            Some(c) if c.is_ascii_digit() || c == '-' || c == '+' => self.number()?,
            Some(c) if c.is_alphabetic() || c == '_' => self.named()?,
            Some(c) => return Err(self.error_here(format!("`{c}` begins no value"))),
            None => return Err(self.error_here("the file ends where a value is expected")),
        };
        Ok(Node { span: self.span(start, self.pos), kind })
    }

    fn named(&mut self) -> Result<Kind, Finding> {
        let name = self.name();
        match name.as_str() {
            "true" => return Ok(Kind::Bool(true)),
            "false" => return Ok(Kind::Bool(false)),
            _ => {}
        }
        let after = self.pos;
        self.skip()?;
        if self.peek() == Some('(') {
            return self.group(Some(name));
        }
        self.pos = after;
        Ok(Kind::Name(name))
    }

    fn name(&mut self) -> String {
        let rest = self.rest();
        let end = rest.find(|c| !is_name_char(c)).unwrap_or(rest.len());
        let name = rest[..end].to_string();
        self.pos += end;
        name
    }

    /// `(...)`: a record when the first thing is `name:`, else a tuple or call.
    fn group(&mut self, name: Option<String>) -> Result<Kind, Finding> {
        let mark = self.pos;
        self.pos += 1;
        self.skip()?;
        let quoted = self.quoted_field();
        if let Some(found) = quoted {
            return Err(found);
        }
        let first = self.name();
        let named = !first.is_empty() && {
            self.skip()?;
            (self.peek() == Some(':') && !self.rest().starts_with("::"))
                || (self.peek() == Some('=') && !self.rest().starts_with("=="))
        };
        self.pos = mark;
        if named {
            return Ok(Kind::Record(name, self.members()?));
        }
        let items = self.items('(', ')')?;
        Ok(match name {
            Some(name) => Kind::Call(name, items),
            None => Kind::Tuple(items),
        })
    }

    /// A JSON habit: `("cpus": 2)`.
    fn quoted_field(&self) -> Option<Finding> {
        let text = self.rest().strip_prefix('"')?;
        let end = text.find('"')?;
        let name = &text[..end];
        let colon = text[end + 1..].trim_start().starts_with(':');
        (colon && !name.is_empty() && name.chars().all(is_name_char)).then(|| {
            let at = self.span(self.pos, self.pos + end + 2);
            Finding::error(at, "field names stand without quotes").hint(format!("write {name}"))
        })
    }

    fn members(&mut self) -> Result<Vec<Member>, Finding> {
        let open = self.pos;
        self.pos += 1;
        let mut members: Vec<Member> = Vec::new();
        loop {
            self.skip()?;
            if self.take(")") {
                return Ok(members);
            }
            if let Some(found) = self.quoted_field() {
                return Err(found);
            }
            let start = self.pos;
            let name = self.name();
            if name.is_empty() {
                return Err(self.unclosed(open, "record", ')'));
            }
            let name_span = self.span(start, self.pos);
            self.skip()?;
            if !self.take(":") {
                let what = format!("`:` expected after the field name `{name}`");
                return Err(self.error_here(what).hint("RON writes `name: value`"));
            }
            self.skip()?;
            let value = self.value()?;
            members.push(Member { name, name_span, value });
            self.separator(open, "record", ')')?;
        }
    }

    fn items(&mut self, _open: char, close: char) -> Result<Vec<Node>, Finding> {
        let open = self.pos;
        self.pos += 1;
        let what = if close == ']' { "list" } else { "group" };
        let mut items = Vec::new();
        loop {
            self.skip()?;
            if self.peek() == Some(close) {
                self.pos += 1;
                return Ok(items);
            }
            if self.peek().is_none_or(|c| ")]}".contains(c)) {
                return Err(self.unclosed(open, what, close));
            }
            items.push(self.value()?);
            self.separator(open, what, close)?;
        }
    }

    fn entries(&mut self) -> Result<Vec<(Node, Node)>, Finding> {
        let open = self.pos;
        self.pos += 1;
        let mut entries = Vec::new();
        loop {
            self.skip()?;
            if self.take("}") {
                return Ok(entries);
            }
            if self.peek().is_none_or(|c| ")]".contains(c)) {
                return Err(self.unclosed(open, "map", '}'));
            }
            let key = self.value()?;
            self.skip()?;
            if !self.take(":") {
                return Err(self.error_here("`:` expected after the key of a map"));
            }
            self.skip()?;
            entries.push((key, self.value()?));
            self.separator(open, "map", '}')?;
        }
    }

    /// Between two items: a comma, or the closing bracket ahead.
    fn separator(&mut self, open: usize, what: &str, close: char) -> Result<(), Finding> {
        let end = self.pos;
        self.skip()?;
        if self.take(",") || self.peek() == Some(close) {
            return Ok(());
        }
        let ahead = self.peek();
        if ahead.is_none_or(|c| ")]}".contains(c)) {
            return Err(self.unclosed(open, what, close));
        }
        let at = self.span(end, end);
        // `40ms`, `192.0.2.1`: a number that goes on is not two items.
        let tail = &self.text[end..self.pos];
        if tail.is_empty() {
            return Err(self.run_on(end));
        }
        let finding = Finding::error(at, "a comma is missing here");
        Err(if self.is_prose(end) { finding.hint("text stands in quotes") } else { finding })
    }

    /// Whether bare words stand before and after: text whose quotes were forgotten.
    fn is_prose(&self, end: usize) -> bool {
        let mut words = self.text[self.pos..].split(' ').take(2);
        let bare = |w: &str| !w.is_empty() && w.chars().all(is_name_char);
        let next = words.next().is_some_and(bare);
        let after = words.next().is_some_and(|w| w.starts_with(is_name_char));
        self.text[..end].ends_with(is_name_char) && next && after
    }

    /// Something stuck to the end of a value, as in `40ms` or `192.0.2.1`.
    fn run_on(&self, end: usize) -> Finding {
        let part = |c: &char| is_name_char(*c) || *c == '.';
        let before = self.text[..end].chars().rev().take_while(part);
        let head = end - before.map(char::len_utf8).sum::<usize>();
        let stop = |c: char| !is_name_char(c) && c != '.' && c != ':' && c != '/';
        let tail = self.text[end..].find(stop).map_or(self.text.len(), |n| end + n);
        let word = &self.text[head..tail];
        let at = self.span(head, tail);
        let finding = Finding::error(at, format!("`{word}` is not a number"));
        if word.matches('.').count() == 3 {
            finding.hint(format!("an address is text: write \"{word}\""))
        } else {
            finding.hint(format!("write \"{word}\""))
        }
    }

    fn unclosed(&self, open: usize, what: &str, close: char) -> Finding {
        let message = match self.peek() {
            Some(c) if ")]}".contains(c) => format!("`{c}` does not close this {what}"),
            Some(c) => format!("`{c}` does not belong here"),
            None => format!("the file ends inside a {what}"),
        };
        let opened = self.span(open, open + 1);
        self.error_here(message).hint(format!("`{close}` is missing")).also(opened, "opened here")
    }

    fn number(&mut self) -> Result<Kind, Finding> {
        let start = self.pos;
        let negative = self.take("-");
        if !negative {
            self.take("+");
        }
        let rest = self.rest();
        let is_float = |t: &str| t.contains('.') || t.contains('e') || t.contains('E');
        let hex = rest.starts_with("0x") || rest.starts_with("0b") || rest.starts_with("0o");
        let mut end = rest.find(|c| !is_name_char(c)).unwrap_or(rest.len());
        let fraction = rest[end..].strip_prefix('.');
        if !hex && fraction.is_some_and(|f| f.starts_with(|c: char| c.is_ascii_digit())) {
            let tail = &rest[end + 1..];
            end += 1 + tail.find(|c| !is_name_char(c)).unwrap_or(tail.len());
        }
        let word = rest[..end].to_string();
        let more = rest[end..].starts_with('.') && !rest[end..].starts_with("..");
        self.pos += end;
        let clean = word.replace('_', "");
        let bad = |p: &Self| p.run_on(start + usize::from(negative));
        if more {
            return Err(bad(self));
        }
        if !hex && is_float(&clean) {
            let value: f64 = clean.parse().map_err(|_| bad(self))?;
            return Ok(Kind::Float(if negative { -value } else { value }));
        }
        match parse_u64(&clean) {
            Ok(value) => Ok(Kind::Int { negative, value }),
            Err(Digits::TooLarge) => {
                let at = self.span(start, self.pos);
                Err(Finding::error(at, format!("{word} does not fit into 64 bits")))
            }
            Err(Digits::None) => Err(bad(self)),
        }
    }

    fn text_literal(&mut self) -> Result<String, Finding> {
        let start = self.pos;
        self.pos += 1;
        let mut out = String::new();
        loop {
            let Some(c) = self.peek() else {
                let at = self.span(start, start + 1);
                return Err(Finding::error(at, "this text is not closed"));
            };
            self.pos += c.len_utf8();
            match c {
                '"' => return Ok(out),
                '\\' => out.push(self.escape()?),
                c => out.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Finding> {
        let start = self.pos - 1;
        let c = self.peek().unwrap_or('"');
        self.pos += c.len_utf8();
        let simple = match c {
            'n' => Some('\n'),
            't' => Some('\t'),
            'r' => Some('\r'),
            '0' => Some('\0'),
            '\\' | '"' | '\'' => Some(c),
            _ => None,
        };
        let code = match c {
            'x' => self.rest().get(..2).map(|h| (h.to_string(), 2)),
            'u' => self
                .rest()
                .strip_prefix('{')
                .and_then(|r| r.find('}').map(|n| (r[..n].to_string(), n + 2))),
            _ => None,
        };
        let decoded = code.and_then(|(hex, len)| {
            self.pos += len;
            u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32)
        });
        simple
            .or(decoded)
            .ok_or_else(|| Finding::error(self.span(start, self.pos), "unknown escape in a text"))
    }

    fn is_raw_text(&self) -> bool {
        self.rest()[1..].trim_start_matches('#').starts_with('"')
    }

    fn raw_text(&mut self) -> Result<String, Finding> {
        let start = self.pos;
        let rest = &self.rest()[1..];
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        let close = format!("\"{}", "#".repeat(hashes));
        let body = &rest[hashes + 1..];
        let Some(end) = body.find(&close) else {
            let at = self.span(start, start + 2 + hashes);
            return Err(Finding::error(at, "this raw text is not closed"));
        };
        let out = body[..end].to_string();
        self.pos += 1 + hashes + 1 + end + close.len();
        Ok(out)
    }
}

enum Digits {
    None,
    TooLarge,
}

fn parse_u64(word: &str) -> Result<u64, Digits> {
    let (digits, radix) = match word.get(..2) {
        Some("0x") => (&word[2..], 16),
        Some("0b") => (&word[2..], 2),
        Some("0o") => (&word[2..], 8),
        _ => (word, 10),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(Digits::None);
    }
    u64::from_str_radix(digits, radix).map_err(|_| Digits::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_ron_and_their_places() {
        let node =
            parse_value("/* c */ A(b: [1, -2..=0x10, _], c: {\"k\": X(\"t\")}, ) // e", 0, 100)
                .unwrap();
        let Kind::Record(Some(name), members) = &node.kind else { panic!("{node:?}") };
        assert_eq!((name.as_str(), node.span.start), ("A", 108));
        assert_eq!(members[0].name, "b");
        let Kind::List(items) = &members[0].value.kind else { panic!() };
        assert!(matches!(items[1].kind, Kind::Range { inclusive: true, .. }));
        assert_eq!(items[2].kind, Kind::Name("_".into()));
        assert_eq!(parse_value("r#\"a\"b\"#", 0, 0).unwrap().as_str(), Some("a\"b"));
        assert_eq!(parse_value("\"\\u{e9}\\x41\"", 0, 0).unwrap().as_str(), Some("éA"));
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "[".repeat(10_000);
        assert!(parse_value(&deep, 0, 0).unwrap_err().message.contains("nested deeper"));
    }
}
