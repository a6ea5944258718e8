//! The time axis: a row of letters for the programs of each CPU, and one for what it was in.

use std::ops::Range;

use kernel_model::CpuId;
use kernel_model::context::Level;

use super::past::Past;
use super::view::View;

/// Columns in front of the axis.
pub(super) const MARGIN: usize = 6;

/// The part of virtual time that is shown.
pub(super) fn window(past: &Past<'_>, view: &View) -> Range<u64> {
    let (end, now) = (past.end_ns.max(1), past.now_ns());
    let length = (end >> view.zoom).max(1);
    // The present is in the middle, where that is possible.
    let from = now.saturating_sub(length / 2).min(end - length);
    from..from + length
}

/// Letters of programs, in the order in which they first ran.
fn letters(past: &Past<'_>) -> Vec<(char, String)> {
    let mut names: Vec<&str> = Vec::new();
    for s in &past.slices {
        if !names.contains(&&*s.name) {
            names.push(&s.name);
        }
    }
    ('a'..='z').zip(names.into_iter().map(str::to_owned)).collect()
}

const fn letter(level: Level) -> char {
    match level {
        Level::Task => 't',
        Level::Soft => 's',
        Level::Hard => 'h',
        Level::Nmi => 'n',
    }
}

/// The axis as rows of text, each CPU's two, after the ruler.
pub(super) fn rows(past: &Past<'_>, view: &View, width: usize, cpus: usize) -> Vec<String> {
    let width = width.saturating_sub(MARGIN).max(1);
    let shown = window(past, view);
    let length = shown.end - shown.start;
    let column = |ns: u64| {
        let at = u128::from(ns.saturating_sub(shown.start)) * width as u128 / u128::from(length);
        (at as usize).min(width - 1)
    };
    let legend = letters(past);
    let mut out = vec![ruler(past, view, width, column(past.now_ns()), &legend)];
    // The CPU that is looked at is among them.
    let all = past.machine().kernel.config.cpus as usize;
    let first = (view.cpu.0 as usize + 1).saturating_sub(cpus.max(1)).min(all.saturating_sub(cpus));
    for cpu in (first..all).take(cpus) {
        let (mut runs, mut inside) = (vec!['.'; width], vec![' '; width]);
        for s in past.slices.iter().filter(|s| s.cpu as usize == cpu) {
            let end = s.start_ns + s.length_ns;
            if end < shown.start || s.start_ns > shown.end {
                continue;
            }
            let name = legend.iter().find(|l| *l.1 == *s.name).map_or('#', |l| l.0);
            let cells = column(s.start_ns)..=column(end);
            runs[cells.clone()].fill(name);
            inside[cells].fill(letter(s.level));
        }
        let mark = if CpuId(cpu as u32) == view.cpu { '>' } else { ' ' };
        out.push(format!("{mark}cpu{cpu:<2}{}", runs.iter().collect::<String>()));
        out.push(
            format!("{:MARGIN$}{}", "", inside.iter().collect::<String>()).trim_end().to_owned(),
        );
    }
    out
}

/// What a column is, which letter is which program, and where the present is.
fn ruler(
    past: &Past<'_>,
    view: &View,
    width: usize,
    now: usize,
    legend: &[(char, String)],
) -> String {
    let shown = window(past, view);
    let per = (shown.end - shown.start) / width as u64;
    let names: Vec<String> = legend.iter().map(|(c, name)| format!("{c} {name}")).collect();
    let text = format!("{per} ns a column  {}", names.join("  "));
    let mut cells: Vec<char> = text.chars().take(width).collect();
    cells.resize(width, ' ');
    cells[now] = 'v';
    format!("{:MARGIN$}{}", "", cells.into_iter().collect::<String>()).trim_end().to_owned()
}
