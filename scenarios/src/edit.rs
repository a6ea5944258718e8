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
}
