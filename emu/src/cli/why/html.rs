//! One self-contained page: source, BPF, visits and states at each instruction, the failing path
//! highlighted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bpf::Program;
use bpf::insn::{Insn, InsnIdx};

use super::states::{Visits, visits};
use super::trace::{Event, walk};
use super::{failing_path, text};
use crate::cli::judge::Row;
use crate::html::escape;

/// Different states kept for an instruction.
const STATES: usize = 12;

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:2em;max-width:110em}\
table{border-collapse:collapse;width:100%;font:12px/1.5 ui-monospace,monospace}\
td{padding:0 .7em;vertical-align:top;white-space:pre-wrap}\
td.n{text-align:right;color:#888}\
tr.src td{background:#f1f3f5;color:#222;padding-top:.3em}\
tr.path td{background:#fff3d6}tr.fail td{background:#ffd6d6}tr.dead td{color:#bbb}\
.ok{color:#18794e}.bad{color:#b42318}pre{background:#f6f8fa;padding:1em;overflow:auto}\
summary{cursor:pointer;color:#555}\
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}tr.src td{background:#1d2126;\
color:#ddd}tr.path td{background:#3a2f14}tr.fail td{background:#4a1d1d}pre{background:#1a1d21}}";

/// Distinct states before each instruction, the first ones.
fn states(log: &str) -> BTreeMap<u32, Vec<String>> {
    let mut found: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    walk(log, |event, tracker| {
        let (Event::Insn(step), Some(state)) = (event, tracker.state()) else { return };
        let kept = found.entry(step.insn).or_default();
        if kept.len() < STATES {
            let pair = |(k, v): (&String, &String)| format!("{k}={v}");
            let words = state.iter().map(pair).collect::<Vec<_>>().join("  ");
            if !kept.contains(&words) {
                kept.push(words);
            }
        }
    });
    found
}

/// The section of one program. `all` is the log at level 2, `path` that at level 1, `why` what is
/// said about a refusal.
pub(in crate::cli) fn section(
    program: &Program,
    row: &Row,
    (all, path): (&str, &str),
    why: &str,
) -> String {
    let mut out = String::new();
    let failed = row.error_line.is_some();
    let class = if failed { "bad" } else { "ok" };
    let verdict = format!("{:?}", row.verdict).to_lowercase();
    let _ = write!(out, "<h2>{} <small>{}</small>", escape(&row.program), escape(&row.section));
    let _ = writeln!(out, " <span class={class}>{verdict}</span></h2>");
    if let Some(line) = &row.error_line {
        let _ = writeln!(out, "<p class=bad><b>{}</b></p>", escape(line));
        let _ = writeln!(out, "<pre>{}</pre>", escape(why));
    }
    let (insns, total, peak) = (row.insns_processed, row.total_states, row.peak_states);
    let _ = writeln!(out, "<p>{insns} instructions processed, {total} states, {peak} at most</p>");
    let steps = if failed { failing_path(path) } else { Vec::new() };
    let on_path: BTreeSet<u32> = steps.iter().map(|s| s.insn).collect();
    let fail = steps.last().map(|s| s.insn);
    out.push_str("<table>\n");
    rows(&mut out, program, &on_path, fail, &visits(all), &states(all));
    out.push_str("</table>\n");
    out
}

fn rows(
    out: &mut String,
    program: &Program,
    on_path: &BTreeSet<u32>,
    fail: Option<u32>,
    visits: &BTreeMap<u32, Visits>,
    states: &BTreeMap<u32, Vec<String>>,
) {
    let mut last = None;
    for (i, insn) in program.insns.iter().enumerate() {
        if *insn == Insn::LdImm64Hi {
            continue;
        }
        let at = i as u32;
        if let Some(f) = program.funcs.iter().find(|f| f.start.0 == at) {
            let _ = writeln!(out, "<tr class=src><td><td colspan=3><b>{}</b>", escape(&f.name));
        }
        let line = program.line_at(InsnIdx(at)).map(|l| (l.line, &l.text, &l.file));
        if line != last
            && let Some((n, text, file)) = line
        {
            let name = file.rsplit('/').next().unwrap_or(file);
            let text = escape(text.trim_end());
            let _ = writeln!(
                out,
                "<tr class=src><td class=n>{n}<td colspan=3 title=\"{}\">{text}",
                escape(name)
            );
        }
        last = line;
        let seen = visits.get(&at).map_or(0, |v| v.visits);
        let class = match () {
            () if fail == Some(at) => "fail",
            () if on_path.contains(&at) => "path",
            () if seen == 0 => "dead",
            () => "seen",
        };
        let _ = write!(
            out,
            "<tr class={class} id=i{at}><td class=n>{at}<td>{}",
            escape(&text(program, at))
        );
        let _ = write!(
            out,
            "<td class=n>{}<td>",
            if seen == 0 { String::new() } else { format!("{seen}x") }
        );
        match states.get(&at).map(Vec::as_slice) {
            None | Some([]) => {}
            Some([one]) => out.push_str(&escape(one)),
            Some([first, rest @ ..]) => {
                let more: Vec<String> = rest.iter().map(|s| escape(s)).collect();
                let (first, n) = (escape(first), rest.len());
                let _ = write!(
                    out,
                    "{first}<details><summary>{n} more</summary>{}</details>",
                    more.join("\n")
                );
            }
        }
        out.push('\n');
    }
}

/// The page around the sections.
pub(in crate::cli) fn page(title: &str, sections: &[String]) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n<h1>{title}</h1>\n\
         <p>Yellow: the path to the error. Red: where it was found. Grey: never reached.</p>\n{}\
         </html>\n",
        sections.join("")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("a<b & \"c\""), "a&lt;b &amp; &quot;c&quot;");
        let page = page("x<y", &["<h2>p</h2>".to_owned()]);
        assert!(page.contains("<title>x&lt;y</title>") && page.contains("<h2>p</h2>"));
    }
}
