//! Changing a file that a person wrote: find the node, replace its bytes, keep all else.

use crate::span::{Finding, Span};
use crate::tree::{self, Kind, Node};

/// A replacement of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What is replaced.
    pub span: Span,
    /// By what.
    pub text: String,
}

/// Applies edits to a text; later bytes first, so that places stay valid. Overlapping edits are
/// a mistake of the caller: the later one in the text wins.
#[must_use]
pub fn apply(text: &str, edits: &[Edit]) -> String {
    let mut sorted: Vec<&Edit> = edits.iter().collect();
    sorted.sort_by_key(|e| std::cmp::Reverse(e.span.start));
    let mut out = text.to_string();
    let mut limit = text.len();
    for edit in sorted {
        let (start, end) = (edit.span.start as usize, edit.span.end as usize);
        if end <= limit && start <= end {
            out.replace_range(start..end, &edit.text);
            limit = start;
        }
    }
    out
}

/// The node at a path such as `expect.1.is`: field names and list indices (from 0).
///
/// # Errors
/// The text is not RON.
pub fn find(text: &str, path: &str) -> Result<Option<Node>, Finding> {
    let mut node = tree::parse_file(text, 0)?;
    for part in path.split('.') {
        let Some(next) = child(node, part) else { return Ok(None) };
        node = next;
    }
    Ok(Some(node))
}

fn child(node: Node, part: &str) -> Option<Node> {
    match node.kind {
        Kind::Record(_, members) => members.into_iter().find(|m| m.name == part).map(|m| m.value),
        Kind::List(items) | Kind::Tuple(items) | Kind::Call(_, items) => {
            items.into_iter().nth(part.parse().ok()?)
        }
        Kind::Map(entries) => {
            entries.into_iter().find(|(k, _)| k.as_str() == Some(part)).map(|(_, v)| v)
        }
        _ => None,
    }
}

/// Something that can be left out: an item of a list, an entry of a map, a field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Field names, keys and indices from the top, as in `tasks.left.script.1`.
    pub path: String,
    /// Its bytes, the name or key included.
    pub span: Span,
}

/// All parts of a file, outer ones before those inside them.
///
/// # Errors
/// The text is not RON.
pub fn parts(text: &str) -> Result<Vec<Part>, Finding> {
    let mut found = Vec::new();
    collect(&tree::parse_file(text, 0)?, "", &mut found);
    Ok(found)
}

fn collect(node: &Node, path: &str, found: &mut Vec<Part>) {
    let join = |name: &str| if path.is_empty() { name.into() } else { format!("{path}.{name}") };
    let children: Vec<(String, Span, &Node)> = match &node.kind {
        Kind::Record(_, members) => {
            let whole = |m: &tree::Member| Span { end: m.value.span.end, ..m.name_span };
            members.iter().map(|m| (join(&m.name), whole(m), &m.value)).collect()
        }
        Kind::Map(entries) => {
            let key = |k: &Node| k.as_str().map_or_else(|| k.describe(), str::to_owned);
            let whole = |k: &Node, v: &Node| Span { end: v.span.end, ..k.span };
            entries.iter().map(|(k, v)| (join(&key(k)), whole(k, v), v)).collect()
        }
        Kind::List(items) => {
            let items = items.iter().enumerate();
            items.map(|(n, item)| (join(&n.to_string()), item.span, item)).collect()
        }
        // Arguments have their places and cannot be left out.
        Kind::Call(_, items) | Kind::Tuple(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(n, item)| collect(item, &join(&n.to_string()), found));
            return;
        }
        _ => return,
    };
    for (path, span, child) in children {
        found.push(Part { path: path.clone(), span });
        collect(child, &path, found);
    }
}

/// The text without a part: its comma goes too, and the line when nothing else stands on it but
/// a comment.
#[must_use]
pub fn without(text: &str, part: Span) -> String {
    let (mut start, mut end) = (part.start as usize, part.end as usize);
    let rest = text[end..].trim_start();
    match rest.strip_prefix(',') {
        Some(after) => end = text.len() - after.len(),
        // The last one: the comma before it goes when it stands on the same line.
        None => {
            end = text.len() - text[end..].trim_start_matches([' ', '\t']).len();
            if rest.starts_with([')', ']', '}']) && text[..start].ends_with(", ") {
                start -= 2;
            }
        }
    }
    let line = text[..start].rfind('\n').map_or(0, |n| n + 1);
    let tail = text[end..].find('\n').map_or(text.len(), |n| end + n + 1);
    let alone = text[line..start].trim().is_empty();
    let behind = text[end..tail].trim();
    if alone && (behind.is_empty() || behind.starts_with("//")) {
        (start, end) = (line, tail);
    } else {
        end = text.len() - text[end..].trim_start_matches([' ', '\t']).len();
    }
    format!("{}{}", &text[..start], &text[end..])
}

/// The text with a field of its outermost record set: in its place, or as the field before
/// another one.
///
/// # Errors
/// The text is not RON.
pub fn with_field(text: &str, name: &str, value: &str, before: &str) -> Result<String, Finding> {
    if let Some(node) = find(text, name)? {
        return Ok(apply(text, &[Edit { span: node.span, text: value.to_owned() }]));
    }
    let Kind::Record(_, members) = tree::parse_file(text, 0)?.kind else {
        return Ok(text.to_owned());
    };
    let at = members.iter().find(|m| m.name == before).map(|m| m.name_span);
    let span = at.map_or(Span::default(), |s| Span { end: s.start, ..s });
    let indent: String = {
        let line = text[..span.start as usize].rfind('\n').map_or(0, |n| n + 1);
        text[line..span.start as usize].chars().filter(|c| c.is_whitespace()).collect()
    };
    let field = format!("{name}: {value},\n{indent}");
    Ok(apply(text, &[Edit { span, text: field }]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_bytes_and_keeps_comments() {
        let text = "(a: [1, /* two */ 2], // end\n b: {\"k\": (c: 5)})";
        let at = find(text, "a.1").unwrap().unwrap().span;
        let c = find(text, "b.k.c").unwrap().unwrap().span;
        let edits = [Edit { span: at, text: "22".into() }, Edit { span: c, text: "6".into() }];
        assert_eq!(apply(text, &edits), "(a: [1, /* two */ 22], // end\n b: {\"k\": (c: 6)})");
        assert_eq!(find(text, "a.7").unwrap(), None);
    }

    #[test]
    fn parts_are_left_out_with_their_commas_and_lines() {
        let text = "(\n    a: [\n        X(1), // one\n        Y(b: 2),\n    ],\n    \
                    m: {\"k\": (c: 5, d: [7, 8])},\n)";
        let all = parts(text).unwrap();
        let paths: Vec<&str> = all.iter().map(|p| p.path.as_str()).collect();
        let want = ["a", "a.0", "a.1", "a.1.b", "m", "m.k", "m.k.c", "m.k.d", "m.k.d.0", "m.k.d.1"];
        assert_eq!(paths, want);
        let gone = |path: &str| without(text, all.iter().find(|p| p.path == path).unwrap().span);
        let m = "    m: {\"k\": (c: 5, d: [7, 8])},\n)";
        assert_eq!(gone("a.0"), format!("(\n    a: [\n        Y(b: 2),\n    ],\n{m}"));
        assert_eq!(gone("a.1"), format!("(\n    a: [\n        X(1), // one\n    ],\n{m}"));
        assert!(gone("m.k.c").contains("(d: [7, 8])"));
        assert!(gone("m.k.d.0").contains("d: [8]"));
        assert!(gone("m.k.d.1").contains("d: [7]"));
        assert!(gone("m.k").contains("m: {}"));
        for part in &all {
            let left = without(text, part.span);
            assert!(tree::parse_file(&left, 0).is_ok(), "{}:\n{left}", part.path);
        }
    }

    #[test]
    fn a_field_is_set_in_its_place_or_before_another() {
        let text = "S(\n    a: 1,\n    expect: [],\n)";
        let set = with_field(text, "schedule", "Seed(1)", "expect").unwrap();
        assert_eq!(set, "S(\n    a: 1,\n    schedule: Seed(1),\n    expect: [],\n)");
        let again = with_field(&set, "schedule", "Seed(2)", "expect").unwrap();
        assert_eq!(again, set.replace("Seed(1)", "Seed(2)"));
    }
}
