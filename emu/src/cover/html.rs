//! One self-contained page: the files with what ran, line by line.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{File, Line};
use crate::html::escape;

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:2em;max-width:110em}\
table{border-collapse:collapse;font:12px/1.5 ui-monospace,monospace}\
table.src{width:100%}td{padding:0 .7em;vertical-align:top;white-space:pre}\
td.n{text-align:right;color:#666}th{text-align:left;padding:0 .7em}\
tr.ran td.t{background:#e3f5e5}tr.not td.t{background:#ffd9d6}tr.half td.t{background:#fff3d6}\
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}tr.ran td.t{background:#16301a}\
tr.not td.t{background:#4a1d1d}tr.half td.t{background:#3a2f14}}";

/// The page. Files whose source was not found show the lines that the object itself has.
#[must_use]
pub fn html(files: &BTreeMap<String, File>) -> String {
    let mut out = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Coverage</title>\n\
         <style>{STYLE}</style>\n<h1>Coverage</h1>\n\
         <table><tr><th>file<th>lines<th>branches<th>functions<th>instructions</tr>\n"
    );
    for (n, (name, f)) in files.iter().enumerate() {
        let insns: u64 = f.lines.values().map(|l| l.insns).sum();
        let _ = writeln!(
            out,
            "<tr><td><a href=\"#f{n}\">{}</a><td>{}<td>{}<td>{}<td class=n>{insns}</tr>",
            escape(name),
            f.line_share(),
            f.branch_share(),
            f.func_share(),
        );
    }
    out.push_str("</table>\n");
    for (n, (name, file)) in files.iter().enumerate() {
        let _ = writeln!(out, "<h2 id=f{n}>{}</h2>\n<table class=src>", escape(name));
        out.push_str("<tr><th>line<th>ran<th>insns<th>branches<th>source</tr>\n");
        let source = file.path.as_ref().and_then(|p| std::fs::read_to_string(p).ok());
        match source {
            Some(text) => {
                for (number, text) in (1..).zip(text.lines()) {
                    row(&mut out, number, file.lines.get(&number), text);
                }
            }
            None => file.lines.iter().for_each(|(n, l)| row(&mut out, *n, Some(l), &l.text)),
        }
        out.push_str("</table>\n");
    }
    out
}

fn row(out: &mut String, number: u32, line: Option<&Line>, text: &str) {
    let text = escape(text);
    let Some(line) = line else {
        let _ = writeln!(out, "<tr><td class=n>{number}<td><td><td><td>{text}</tr>");
        return;
    };
    let ways: Vec<String> = line.branches.iter().map(|[a, b]| format!("{a}/{b}")).collect();
    let half = line.branches.iter().flatten().any(|n| *n == 0);
    let class = match line.hits {
        0 => "not",
        _ if half => "half",
        _ => "ran",
    };
    let (hits, insns, ways) = (line.hits, line.insns, ways.join(" "));
    let _ = writeln!(
        out,
        "<tr class={class}><td class=n>{number}<td class=n>{hits}<td class=n>{insns}<td>{ways}\
         <td class=t>{text}</tr>"
    );
}
