//! The argument of a program, its context, where nothing of it is left in registers.
//!
//! Who enters a program keeps the argument in the word at the CFA (`Image::returns_to`). So it is
//! known wherever the program's return address says that it was entered so: not after a tail call
//! from a function, which takes the place of that function.
//!
//! The parameter's value is the argument as long as nobody assigns to it. clang's lists do not tell
//! an assignment whose value was optimised out from the end of a register's use, so the source has
//! to say it: see [`is_assigned`].

use std::ops::Range;

use crate::Image;
use gimli::constants as dw;
use gimli::write::Expression;
use jit::{FrameChange, FuncMap, SavedReg};

use super::native::{self, Ra};

/// Where the main function's return address is: ranges of the code, and its place from the CFA.
fn returns(image: &Image, main: &FuncMap) -> Vec<(Range<u32>, i32)> {
    if let Ra::Stack(off) = native::of(image.arch).ra_at_entry {
        return vec![(main.body.0..main.end.0, off)];
    }
    let (mut out, mut since, mut body) = (Vec::new(), None, None);
    for (at, change) in &main.frame {
        let now = match *change {
            FrameChange::Save(SavedReg { reg: None, cfa_off }) => Some(cfa_off),
            FrameChange::Restore(None) => None,
            FrameChange::Body => body,
            _ => continue,
        };
        if let Some((from, off)) = since {
            out.push((from..at.0, off));
        }
        since = now.map(|off| (at.0, off));
        body = if *at <= main.body { now } else { body };
    }
    out.extend(since.map(|(from, off)| (from..main.end.0, off)));
    let clipped = out.into_iter().map(|(r, off)| (r.start.max(main.body.0)..r.end, off));
    clipped.filter(|(r, _)| !r.is_empty()).collect()
}

/// Where the argument is known, and how.
pub(super) fn places(image: &Image) -> Vec<(Range<u32>, Expression)> {
    let Some(main) = image.debug.funcs.first() else { return Vec::new() };
    let known = |(range, off)| (range, kept(image.returns_to, off));
    returns(image, main).into_iter().map(known).collect()
}

/// The word at the CFA if the return address is the one, else nothing: an empty piece.
fn kept(returns_to: u64, ra_from_cfa: i32) -> Expression {
    let mut e = Expression::new();
    e.op(dw::DW_OP_call_frame_cfa);
    e.op_consts(ra_from_cfa.into());
    e.op(dw::DW_OP_plus);
    e.op_deref();
    e.op_constu(returns_to);
    e.op(dw::DW_OP_eq);
    let known = e.op_bra();
    e.op_piece(8);
    let end = e.op_skip();
    e.set_target(known, e.next_index());
    e.op(dw::DW_OP_call_frame_cfa);
    e.op_deref();
    e.op(dw::DW_OP_stack_value);
    e.op_piece(8);
    e.set_target(end, e.next_index());
    e
}

/// Whether a text in C may assign to a variable of this name, or take its address.
///
/// By words alone, on the safe side: another variable of the name counts too, and so does what is
/// written between the parentheses of a macro of this text, or of one that is used like a loop.
pub(super) fn is_assigned(text: &str, name: &str) -> bool {
    let words = words(text);
    let word = |n: usize| words.get(n).copied().unwrap_or("");
    let before = |n: usize, back: usize| n.checked_sub(back).map_or("", word);
    let defined: Vec<&str> = (0..words.len())
        .filter(|n| before(*n, 2) == "#" && before(*n, 1) == "define" && word(n + 1) == "(")
        .map(word)
        .collect();
    // Open parentheses: who is called, and whether the name was seen in it.
    let (mut open, mut depth) = (Vec::new(), 0u32);
    for (n, w) in words.iter().enumerate() {
        match *w {
            "(" => open.push((before(n, 1), false)),
            ")" => {
                let (called, named) = open.pop().unwrap_or_default();
                let loops = depth > 0 && word(n + 1) == "{" && !is_statement(called);
                if named && (loops || defined.contains(&called)) {
                    return true;
                }
            }
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            w if w == name && !matches!(before(n, 1), "." | "->") => {
                open.iter_mut().for_each(|o| o.1 = true);
                let (mut first, mut last) = (n, n);
                while before(first, 1) == "(" && word(last + 1) == ")" {
                    (first, last) = (first - 1, last + 1);
                }
                let whole = !matches!(word(last + 1), "->" | "[");
                let operand = before(n, 1) == "(" && before(n, 2).starts_with('"');
                let output = operand && before(n, 2).contains(['=', '+']);
                if ASSIGNS.contains(&word(last + 1))
                    || matches!(before(first, 1), "++" | "--")
                    || before(first, 1) == "&" && whole
                    || output
                {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

const ASSIGNS: [&str; 13] =
    ["=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", "++", "--"];

fn is_statement(word: &str) -> bool {
    matches!(word, "if" | "for" | "while" | "switch" | "")
}

/// Words and marks of a text in C, without comments.
fn words(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let len = if c.is_whitespace() {
            rest = &rest[c.len_utf8()..];
            continue;
        } else if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
            continue;
        } else if rest.starts_with("/*") {
            rest = rest.find("*/").map_or("", |n| &rest[n + 2..]);
            continue;
        } else if c == '"' || c == '\'' {
            literal(rest, c)
        } else if c.is_alphanumeric() || c == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else {
            let marks = ["<<=", ">>=", "->", "&&", "||", "<<", ">>", "==", "!=", "<=", ">="];
            let mut marks = marks.iter().chain(&ASSIGNS);
            marks.find(|m| rest.starts_with(**m)).map_or(c.len_utf8(), |m| m.len())
        };
        out.push(&rest[..len]);
        rest = &rest[len..];
    }
    out
}

/// Bytes of a string or character with its quotes; it ends with its line at the latest.
fn literal(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return at,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::is_assigned;

    #[test]
    fn what_assigns() {
        for text in [
            "int f(struct c *ctx) { ctx = next; }",
            "ctx += 1;",
            "ctx++;",
            "--ctx;",
            "(ctx) = 0;",
            "g(&ctx);",
            "g(&(ctx));",
            "struct c *ctx = a;",
            "asm volatile(\"%0 += 1\" : \"+r\"(ctx));",
            "#define NEXT(c) c = c->next\nint f(int ctx) { NEXT(ctx); }",
            "#define NEXT ctx = ctx->next\nint f(int ctx) { NEXT; }",
            "int f(int ctx) { bpf_for(ctx, 0, 10) { g(); } }",
            "int f(int ctx) { for (ctx = 0; ;) { g(); } }",
        ] {
            assert!(is_assigned(text, "ctx"), "{text}");
        }
    }

    #[test]
    fn what_does_not() {
        for text in [
            "int f(struct c *ctx) { if (ctx == 0) { return ctx->x; } }",
            "g(&ctx->x, &ctx[1], ctx && y, y & x);",
            "a->ctx = ctx; b.ctx++;",
            "struct s v = { .ctx = ctx };",
            "/* ctx = 1 */ // ctx++\nx = ctx; \"ctx = 1\";",
            "ctx <= 1; ctx >= 1; ctx != 1; ctx->x = 1; ctx[0] = 1;",
            "asm volatile(\"r1 = %0\" :: \"r\"(ctx));",
            "int f(int ctx) { while (ctx) { g(ctx); } }",
            "context = 1; my_ctx = 1;",
        ] {
            assert!(!is_assigned(text, "ctx"), "{text}");
        }
    }
}
