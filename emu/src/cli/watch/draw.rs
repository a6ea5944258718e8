//! Places panes on the screen. Nothing is told by colour alone: `>` marks what is current.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Clear, Paragraph};

use super::past::Past;
use super::view::{TABS, Tab, View};
use super::{axis, panes};

/// Columns from which registers have a place of their own.
const WIDE: u16 = 120;

/// Draws everything.
pub(super) fn draw(f: &mut Frame<'_>, past: &mut Past<'_>, view: &View, colour: bool) {
    let all = f.area();
    let cpus = past.machine().kernel.config.cpus as usize;
    // Two rows for each CPU that fits beside the rest.
    let cpus = cpus.clamp(1, (all.height as usize / 10).max(1));
    let log = (all.height / 4).max(3);
    let rows = [
        Constraint::Length(1),
        Constraint::Length(1 + 2 * cpus as u16),
        Constraint::Min(3),
        Constraint::Length(log),
        Constraint::Length(1),
    ];
    let [top, time, middle, events, keys] = Layout::vertical(rows).areas(all);
    f.render_widget(bar(&title(past)), top);
    let axis = axis::rows(past, view, time.width as usize, cpus);
    f.render_widget(marked(axis, colour), time);
    if middle.width >= WIDE {
        let columns = [Constraint::Percentage(34), Constraint::Percentage(33), Constraint::Min(20)];
        let [left, centre, right] = Layout::horizontal(columns).spacing(1).areas(middle);
        source(f, past, view, left, colour);
        let lines = panes::regs(past, view.cpu);
        titled(f, "registers".into(), lines, centre, colour);
        tab(f, past, view, right, colour);
    } else {
        let columns = [Constraint::Percentage(46), Constraint::Min(20)];
        let [left, right] = Layout::horizontal(columns).spacing(1).areas(middle);
        source(f, past, view, left, colour);
        tab(f, past, view, right, colour);
    }
    let (name, lines) = panes::log(past, view, events.height.saturating_sub(1) as usize);
    titled(f, name, lines, events, colour);
    f.render_widget(bar(&bottom(past, view)), keys);
    over(f, view, all, colour);
}

fn title(past: &Past<'_>) -> String {
    let (at, end, ns) = (past.position(), past.end, past.now_ns());
    let arch = past.machine().arch();
    format!("{} {arch}  insn {at} of {end}  {ns} ns", past.title)
}

fn bottom(past: &Past<'_>, view: &View) -> String {
    if let Some(p) = &view.prompt {
        let what = match p.kind {
            '/' => "only events with: ",
            'g' => "go to: ",
            _ => "monitor: ",
        };
        return format!("{what}{}_", p.text);
    }
    if !view.said.is_empty() {
        return view.said.clone();
    }
    if past.position() >= past.end
        && let Some(first) = past.failures.first()
    {
        return format!("not met: {first}");
    }
    "<- -> insn  pgup/dn leap  up/dn event  / filter  tab pane  c cpu  ? keys  q quit".into()
}

fn bar(text: &str) -> Paragraph<'static> {
    Paragraph::new(text.to_owned()).style(Style::new().add_modifier(Modifier::REVERSED))
}

/// Lines; those that begin with `>` stand out.
fn marked(lines: Vec<String>, colour: bool) -> Text<'static> {
    let line = |text: String| {
        let style = match text.chars().next() {
            Some('>') if colour => Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
            Some('>') => Style::new().add_modifier(Modifier::BOLD),
            Some('.') => Style::new().add_modifier(Modifier::DIM),
            _ => Style::new(),
        };
        Line::from(Span::styled(text, style))
    };
    Text::from(lines.into_iter().map(line).collect::<Vec<_>>())
}

fn titled(f: &mut Frame<'_>, title: String, lines: Vec<String>, area: Rect, colour: bool) {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let style = Style::new().add_modifier(Modifier::UNDERLINED);
    let style = if colour { style.fg(Color::Cyan) } else { style };
    f.render_widget(Paragraph::new(title).style(style), head);
    f.render_widget(marked(lines, colour), body);
}

fn source(f: &mut Frame<'_>, past: &mut Past<'_>, view: &View, area: Rect, colour: bool) {
    let (title, lines) = panes::source(past, view, area.height.saturating_sub(1) as usize);
    titled(f, title, lines, area, colour);
}

fn tab(f: &mut Frame<'_>, past: &mut Past<'_>, view: &View, area: Rect, colour: bool) {
    let mut shown = view.clone();
    // Registers have a place of their own on a wide screen.
    if shown.tab == Tab::Regs && f.area().width >= WIDE {
        shown.tab = Tab::Maps;
    }
    let names = TABS.iter().map(|(tab, _, name)| match *tab == shown.tab {
        true => format!("[{name}]"),
        false => (*name).to_owned(),
    });
    let lines = panes::tab(past, &shown);
    let scroll = view.scroll.min(lines.len().saturating_sub(1));
    let lines = if view.over.is_some() { lines } else { lines.into_iter().skip(scroll).collect() };
    titled(f, names.collect::<Vec<_>>().join(" "), lines, area, colour);
}

/// Help, or what a monitor command said.
fn over(f: &mut Frame<'_>, view: &View, all: Rect, colour: bool) {
    let Some(over) = &view.over else { return };
    let area = Rect { y: all.y + 1, height: all.height.saturating_sub(2), ..all };
    let lines: Vec<String> = over.text.lines().map(str::to_owned).collect();
    let scroll = view.scroll.min(lines.len().saturating_sub(1));
    f.render_widget(Clear, area);
    let title = format!("{} (j k scroll, any other key closes)", over.title);
    titled(f, title, lines.into_iter().skip(scroll).collect(), area, colour);
}
